"""What holds for every projector: lengths, padding, scale, dtypes, gradients, copying."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.projectors.conftest import RMS, D, W
from torch import Tensor

from tiny_audio.errors import ConfigError
from tiny_audio.model.projectors import PROJECTORS, build_projector


def noise(*lengths: int, padding: float = 0.0) -> tuple[Tensor, Tensor]:
    """A ragged batch of random frames; what lies beyond a length is `padding`."""
    generator = torch.Generator().manual_seed(sum(lengths))
    frames = torch.full((len(lengths), max(lengths), D), padding)
    for row, n in zip(frames, lengths, strict=True):
        row[:n] = torch.randn(n, D, generator=generator)
    return frames, torch.tensor(lengths)


def count_tokens(kind: str, n: int) -> int:
    """Tokens of n frames, counted by walking over them (stride 4; windows of 5, 2 queries)."""
    tokens, taken = 0, 0
    if kind == "qformer":
        while taken < n:
            taken, tokens = taken + 5, tokens + 2
    else:
        while taken + 4 <= n:
            taken, tokens = taken + 4, tokens + 1
    return tokens


def test_out_len_of_ints_equals_out_len_of_tensors_and_a_count(make):
    lengths = [*range(31), 2999, 3000]
    for kind in PROJECTORS:
        projector = make(kind)
        expected = [count_tokens(kind, n) for n in lengths]
        assert [projector.out_len(n) for n in lengths] == expected
        assert projector.out_len(torch.tensor(lengths)).tolist() == expected


@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(1, 300), min_size=2, max_size=4), extra=st.integers(0, 40))
def test_a_clip_does_not_depend_on_its_batch(lengths, extra, make):
    """NaN and huge values in the padding, and more padding, change nothing."""
    frames, sizes = noise(*lengths, padding=float("nan"))
    more = torch.full((len(lengths), extra, D), 1e30)
    frames = torch.cat([frames, more], 1)
    for kind in PROJECTORS:
        projector = make(kind).eval()
        with torch.no_grad():
            together = projector(frames, sizes)
            assert together.shape == (len(lengths), projector.out_len(frames.shape[1]), W)
            for i, n in enumerate(lengths):
                alone = projector(frames[i : i + 1, :n], sizes[i : i + 1])[0]
                assert len(alone) == projector.out_len(n)
                torch.testing.assert_close(together[i, : len(alone)], alone, atol=1e-6, rtol=0)
                assert (together[i, len(alone) :] == 0).all()


def test_a_clip_too_short_has_no_rows_and_a_batch_of_them_is_empty(kind, make):
    projector = make(kind)
    frames, lengths = noise(9, 0)
    tokens = projector(frames, lengths)
    assert (tokens[1] == 0).all()
    assert tokens[0].abs().sum() > 0
    empty = projector(frames[:, :0], torch.zeros(2, dtype=torch.long))
    assert empty.shape == (2, 0, W)
    all_short = projector(frames[:, :9], torch.zeros(2, dtype=torch.long))
    assert all_short.isfinite().all()
    assert (all_short == 0).all()


def test_tokens_start_at_the_scale_of_the_embeddings(kind, make):
    projector = make(kind)
    frames, lengths = noise(200, 100)
    tokens = projector(frames, lengths)
    real = tokens[tokens.abs().sum(-1) > 0]
    rms = real.square().mean().sqrt().item()
    assert RMS / 2 < rms < RMS * 2
    assert projector.stats()["output_rms"] == pytest.approx(rms, rel=1e-4)


def test_gradients_reach_every_parameter(kind, make):
    projector = make(kind).train()
    tokens = projector(*noise(120, 80, padding=float("nan")))
    loss = (tokens * torch.randn(W)).sum()
    if projector.aux_loss is not None:
        loss = loss + projector.aux_loss
    loss.backward()
    assert all(p.grad.isfinite().all() for p in projector.parameters())
    silent = [n for n, p in projector.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias on attention keys shifts every score of a query alike: softmax cannot see it.
    assert [n for n in silent if not n.endswith("key.bias")] == []


@pytest.mark.parametrize("frames_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_any_mix_of_dtypes_gives_the_dtype_of_the_frames(
    kind, make, frames_dtype, weight_dtype, autocast
):
    projector = make(kind).eval()
    frames, lengths = noise(23, 11)
    exact = projector(frames, lengths)
    projector = projector.to(weight_dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        tokens = projector(frames.to(frames_dtype), lengths)
    assert tokens.dtype == frames_dtype
    assert tokens.isfinite().all()
    # Median: half precision may send single tokens of the mixture of experts elsewhere.
    assert (tokens.float() - exact).abs().median() < 0.05 * RMS
    if frames_dtype == torch.float32 and weight_dtype == torch.float32:
        tokens.sum().backward()
        assert all(p.grad.dtype == torch.float32 for p in projector.parameters())


def test_compiles_and_gives_the_same(kind, make):
    """In one graph, except for the mixture of experts, whose dispatch depends on the data."""
    changes = {"qformer": {"layers": 1}, "moe": {"jitter": 0.0}}.get(kind, {})
    projector, batch = make(kind, **changes).train(), noise(23, 11)
    expected = projector(*batch)
    expected.square().sum().backward()
    gradients = [p.grad.clone() for p in projector.parameters()]
    projector.zero_grad()
    torch._dynamo.reset()
    tokens = torch.compile(projector, backend="eager", fullgraph=kind != "moe")(*batch)
    tokens.square().sum().backward()
    torch.testing.assert_close(tokens, expected, atol=1e-6, rtol=1e-5)
    for p, gradient in zip(projector.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, atol=1e-5, rtol=1e-3)


def test_can_be_copied_and_pickled_after_a_training_step(kind, make):
    projector = make(kind).train()
    batch = noise(23, 11)
    projector(*batch)
    for twin in (copy.deepcopy(projector), pickle.loads(pickle.dumps(projector))):
        assert torch.equal(twin.eval()(*batch), projector.eval()(*batch))


def test_wrong_settings_name_themselves(make):
    with pytest.raises(ConfigError, match="multiple of heads"):
        make("qformer", heads=3)
    with pytest.raises(ConfigError, match=r"top_k is 5"):
        make("moe", top_k=5)
    with pytest.raises(ConfigError, match=r"mlp\.stride is 0"):
        make("mlp", stride=0)
    with pytest.raises(ConfigError, match=r"'conv'.*mlp, mosa, moe, qformer, glm"):
        build_projector("conv", D, W, RMS, {})
