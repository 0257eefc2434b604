"""The encoder: padding never changes an answer; `native` is the checkpoint's own way."""

import pytest
import torch

from tests.model.helpers import CPU, WHISPER, model_config
from tiny_audio.errors import ConfigError, ModelError
from tiny_audio.model.encoder import AudioEncoder, encode_batch, random_encoder

GLM = model_config().encoder.architecture


def build(
    architecture: dict, padding: str = "tight", attn_implementation: str = "sdpa"
) -> AudioEncoder:
    return random_encoder(
        architecture,
        padding=padding,
        attn_implementation=attn_implementation,
        dtype=torch.float32,
        device=CPU,
        seed=0,
    )


def ragged(n_mels: int, lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Mel frames with rubbish, not zeros, beyond each length: what is there must not matter."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(lengths), n_mels, max(lengths), generator=generator), torch.tensor(
        lengths
    )


ARCHITECTURES = [
    pytest.param(GLM, id="glm"),
    pytest.param(WHISPER, id="whisper"),
    pytest.param(model_config("glm_qwen3").encoder.architecture, id="full", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("lengths", [[40, 101, 7, 1], [199, 200], [900, 12]])
def test_alone_equals_in_any_batch(architecture, lengths):
    encoder = build(architecture)
    mel, sizes = ragged(encoder.n_mels, lengths)
    frames, out = encoder(mel, sizes)
    for i, n in enumerate(lengths):
        alone, _ = encoder(mel[i : i + 1, :, :n], sizes[i : i + 1])
        assert alone.shape[1] == out[i] == encoder.out_len(n)
        assert (frames[i, : out[i]] - alone[0]).abs().max() < 1e-5
        assert frames[i, out[i] :].abs().sum() == 0


@pytest.mark.parametrize("padding", ["tight", "native"])
@pytest.mark.parametrize("lengths", [[900, 700, 500, 500, 1, 0], [3000, 12], [5, 2000, 40, 40]])
def test_pieces_of_a_batch_equal_the_batch(padding: str, lengths: list[int]) -> None:
    encoder = build(GLM, padding=padding)
    mel, sizes = ragged(80, lengths)
    whole, out = encoder(mel, sizes)
    pieces, out_of_pieces = encode_batch(encoder, mel, sizes)
    assert torch.equal(out, out_of_pieces)
    assert (whole - pieces).abs().max() < 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES[:2])
def test_native_equals_the_tower_as_transformers_runs_it(architecture: dict) -> None:
    encoder = build(architecture, padding="native")
    mel, _ = ragged(80, [3000, 3000])
    frames, out = encoder(mel, torch.tensor([3000, 1001]))
    reference = encoder.tower(mel).last_hidden_state
    assert out.tolist() == [1500, 501]
    assert (frames[0] - reference[0]).abs().max() < 1e-5
    assert (frames[1, :501] - reference[1, :501]).abs().max() < 1e-5
    assert frames[1, 501:].abs().sum() == 0


def test_out_len_of_ints_and_tensors_agree_and_match_the_convolutions() -> None:
    encoder = build(GLM)
    for n in [1, 2, 3, 4, 99, 100]:
        assert encoder.tower.conv2(torch.zeros(1, 64, n)).shape[-1] == encoder.out_len(n)
    sizes = torch.tensor([0, 1, 2, 3, 99])
    assert encoder.out_len(sizes).tolist() == [encoder.out_len(int(n)) for n in sizes]


def test_a_clip_without_frames_gives_zeros_not_nan() -> None:
    frames, out = build(GLM)(torch.randn(2, 80, 20), torch.tensor([20, 0]))
    assert out.tolist() == [10, 0]
    assert frames[1].abs().sum() == 0
    assert frames.isfinite().all()


def test_whisper_says_where_its_positions_end_and_glm_has_no_such_end() -> None:
    mel, lengths = torch.zeros(1, 80, 3002), torch.tensor([3002])
    with pytest.raises(ModelError, match="positions for 1500"):
        build(WHISPER)(mel, lengths)
    assert build(GLM)(mel, lengths)[0].shape[1] == 1501


def test_unknown_padding_is_named() -> None:
    with pytest.raises(ConfigError, match="'snug' is unknown"):
        build(GLM, padding="snug")
