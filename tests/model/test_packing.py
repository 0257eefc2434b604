"""model.attn_implementation=packed: nothing is computed on padding, and nothing changes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM

from tests.model.helpers import CPU, WHISPER, make_batch, model_config, noise, tiny_model
from tiny_audio.config import GenerationConfig, LoraConfig
from tiny_audio.model.build import build_model
from tiny_audio.model.kv_cache import can_preallocate
from tiny_audio.model.lora import add_lora
from tiny_audio.model.packing import Packing, _clip_by_clip, can_pack
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.stages import checkpoint_decoder, compile_layers

SECONDS = [1.3, 0.4, 2.1, 0.9]
TEXTS = ["one two three", "a", "something rather longer than that", "x y"]

SLIDING = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "sliding_window": 2,
}


def gradients(model: SpeechModel) -> tuple[float, torch.Tensor]:
    """Loss of a ragged batch and the gradient of all that learns, as one vector."""
    model.train()
    model.spec_augment = None
    model.zero_grad(set_to_none=True)
    loss = model.loss(make_batch(model, noise(SECONDS), TEXTS))
    loss.total.backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return float(loss.total.detach()), torch.cat(grads)


def whisper(attn_implementation: str) -> SpeechModel:
    config = model_config()
    config.attn_implementation = attn_implementation
    config.encoder.architecture = OmegaConf.create(WHISPER)  # type: ignore[assignment]
    config.features.n_mels = 80
    return build_model(config, device=CPU)


@pytest.mark.parametrize(
    "build", [tiny_model, lambda attn_implementation: whisper(attn_implementation)]
)
def test_loss_gradients_and_frames_stay(build: Any) -> None:
    usual, packed = build(attn_implementation="sdpa"), build(attn_implementation="packed")
    for one, two in zip(usual.parameters(), packed.parameters(), strict=True):
        assert torch.equal(one, two)
    (loss, gradient), (other, others) = gradients(usual), gradients(packed)
    assert other == pytest.approx(loss, rel=1e-5)
    assert (gradient - others).norm() < 1e-5 * gradient.norm()
    batch = make_batch(usual, noise(SECONDS), TEXTS)
    frames, lengths = usual.encode(batch.waveform, batch.waveform_lengths)
    again, same = packed.encode(batch.waveform, batch.waveform_lengths)
    assert torch.equal(lengths, same)
    torch.testing.assert_close(again, frames, atol=1e-5, rtol=1e-5)


def test_adapters_learn_the_same() -> None:
    found = []
    for attn_implementation in ("sdpa", "packed"):
        model = tiny_model(attn_implementation=attn_implementation)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model.decoder = add_lora(
                model.causal_lm, **{**asdict(LoraConfig()), "lora_dropout": 0.0}
            )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator())
        found.append(gradients(model))
    (loss, gradient), (other, others) = found
    assert other == pytest.approx(loss, rel=1e-5)
    assert (gradient - others).norm() < 1e-4 * gradient.norm()


def test_text_stays() -> None:
    usual, packed = tiny_model(), tiny_model(attn_implementation="packed")
    assert can_preallocate(packed.causal_lm)
    options = GenerationConfig(tokens_per_second=6)
    batch = make_batch(usual, noise(SECONDS))
    for one, two in zip(
        usual.generate(batch, options), packed.generate(batch, options), strict=True
    ):
        assert one.token_ids == two.token_ids


def test_checkpointing_and_compiling_go_with_it() -> None:
    model = tiny_model(attn_implementation="packed")
    _, eager = gradients(model)
    other = tiny_model(attn_implementation="packed")
    checkpoint_decoder(other.causal_lm)
    _, checkpointed = gradients(other)
    torch.testing.assert_close(checkpointed, eager)
    compile_layers(model, print, backend="eager")
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters
    counted.clear()
    _, compiled = gradients(model)
    torch.testing.assert_close(compiled, eager, atol=1e-6, rtol=1e-4)
    first = counted["stats"]["unique_graphs"]
    for seconds in ([0.7, 1.1, 0.5], [2.2, 0.8, 1.9, 1.0, 0.6], [1.7, 1.5]):
        texts = ["hello there"] * len(seconds)
        model.loss(make_batch(model, noise(seconds), texts)).total.backward()
    assert counted["stats"]["unique_graphs"] <= 2 * first  # once more, where lengths turn dynamic


def test_packing_is_undone_by_unpacking() -> None:
    lengths, width = [3, 0, 5, 1], 6
    packing = Packing.of(lengths, width, CPU)
    x = torch.randn(4, width, 2)
    inside = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    assert torch.equal(packing.pack(x)[0], x[inside])
    assert torch.equal(packing.unpack(packing.pack(x)), x * inside.unsqueeze(-1))
    places = inside.flatten().nonzero().squeeze(1)
    assert torch.equal(packing.find(places), torch.arange(sum(lengths)))
    nothing = Packing.of([0, 0], 1, CPU)
    assert nothing.unpack(nothing.pack(torch.ones(2, 1, 3))).eq(0).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_attention_ends_where_a_clip_ends(causal: bool, key_heads: int) -> None:
    """Against one attention over everything with a mask of blocks, in float64."""
    lengths = [5, 1, 0, 7]
    packing = Packing.of(lengths, 7, CPU)
    n, of = sum(lengths), torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    generator = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(1, heads, n, 8, generator=generator, dtype=torch.float64)
        for heads in (4, key_heads, key_heads)
    )
    mask = of.unsqueeze(0) == of.unsqueeze(1)
    if causal:
        mask = mask.tril()
    k2, v2 = (x.repeat_interleave(4 // key_heads, dim=1) for x in (k, v))
    wanted = scaled_dot_product_attention(q, k2, v2, attn_mask=mask, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(_clip_by_clip(q, k, v, packing, causal, 0.3), wanted)


def test_a_decoder_that_cannot_is_found_out() -> None:
    """A sliding window hides what the packed attention would show."""
    config = AutoConfig.for_model("mistral", vocab_size=50, **SLIDING)
    sliding = AutoModelForCausalLM.from_config(config, attn_implementation="packed").eval()
    assert not can_pack(sliding)
    assert can_pack(tiny_model(attn_implementation="packed").causal_lm)


def test_such_a_decoder_keeps_its_padding(caplog: pytest.LogCaptureFixture) -> None:
    config = model_config()
    config.attn_implementation = "packed"
    config.decoder.architecture = OmegaConf.create(  # type: ignore[assignment]
        {**SLIDING, "vocab_size": 300, "model_type": "mistral"}
    )
    model = build_model(config, device=CPU)
    assert "keeps its batches padded" in caplog.text
    assert torch.isfinite(model.loss(make_batch(model, noise(SECONDS), TEXTS)).total)
