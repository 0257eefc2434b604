"""However the past is kept, the same tokens follow from it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config

import tiny_audio
from tests.model.helpers import make_batch, noise, tiny_model
from tiny_audio.config import GenerationConfig
from tiny_audio.model.generate import (
    ROOM,
    Growing,
    Hypothesis,
    Preallocated,
    Run,
    can_preallocate,
    start_decoding,
)
from tiny_audio.model.speech import Prefill, SpeechModel

SECONDS = [2.0, 1.1, 0.5, 3.3]


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> SpeechModel:
    built = tiny_model(attn_implementation=request.param)
    with torch.no_grad():
        for weight in built.projector.parameters():
            weight.mul_(3.0)
    return built


def fixed(past: Preallocated) -> dict[str, int]:
    """Where everything lies that a captured step reads and writes."""
    tensors = {"tokens": past._tokens, "positions": past._positions, "slot": past._slot}
    tensors["mask"] = past._mask
    for number, layer in enumerate(past._layers):
        tensors |= {f"keys {number}": layer.keys, f"values {number}": layer.values}
    return {name: (tensor.data_ptr(), tensor.shape) for name, tensor in tensors.items()}


class Recorded:
    """What a CUDA graph is: the same work on the same past, its result always in one place."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, run: Run) -> Run:
        self.captures += 1
        logits = run()
        past = run.__self__  # type: ignore[attr-defined]
        before = fixed(past)

        def replay() -> Tensor:
            self.replays += 1
            assert fixed(past) == before
            logits.copy_(run())
            return logits

        return replay


def prefill(model: SpeechModel) -> Prefill:
    with torch.no_grad():
        return model.prefill(make_batch(model, noise(SECONDS)))


@torch.no_grad()
def walk(past: Growing, drop: dict[int, list[int]], steps: int) -> list[Tensor]:
    """Logits of steps that read the same tokens in every kind of past; some rows are dropped."""
    seen = [past.first().clone()]
    rows = torch.arange(len(SECONDS))
    for step in range(steps):
        if step in drop:
            keep = torch.tensor(drop[step])
            past.keep(keep)
            rows = rows[keep]
        seen.append(past.next((7 * step + 13 * rows) % 250).clone())
    return seen


@pytest.mark.parametrize("captured", [False, True])
def test_every_cache_gives_the_same_logits(model: SpeechModel, captured: bool) -> None:
    steps, drop = ROOM + 12, {9: [0, 2, 3], 30: [1, 2], 70: [0]}
    start = prefill(model)
    recorded = Recorded()
    lm = model.causal_lm
    ours = walk(Preallocated(lm, start, recorded if captured else None), drop, steps)
    for mine, theirs in zip(ours, walk(Growing(lm, start), drop, steps), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    if captured:  # at the start, after each drop, and where the buffers grew
        assert recorded.captures == 5
        assert recorded.replays == steps - 5 * 3


def test_text_is_transformers_own(model: SpeechModel) -> None:
    """With rows that leave at different times, past the room of the first buffers."""
    options = GenerationConfig(tokens_per_second=30.0, min_tokens=20)
    batch = make_batch(model, noise(SECONDS))
    ours = model.generate(batch, options)
    start = prefill(model)
    theirs = model.causal_lm.generate(
        inputs_embeds=start.inputs_embeds,
        attention_mask=start.attention_mask,
        max_new_tokens=99,
        do_sample=False,
        eos_token_id=model.prompt.end_id,
        pad_token_id=model.prompt.end_id,
    )
    for row, hypothesis in zip(theirs.tolist(), ours, strict=True):
        assert hypothesis.token_ids == row[: len(hypothesis.token_ids)]
    assert {len(h.token_ids) for h in ours} >= {20, 60, 99}


def text(model: SpeechModel, write: Callable[[], list[Hypothesis]]) -> list[list[int]]:
    with torch.no_grad():
        return [hypothesis.token_ids for hypothesis in write()]


def test_a_decoder_with_sliding_windows_keeps_transformers_cache() -> None:
    model = tiny_model()
    config = Qwen3Config(
        **{
            **model.causal_lm.config.to_dict(),
            "use_sliding_window": True,
            "sliding_window": 16,
            "max_window_layers": 1,
            "layer_types": ["full_attention", "sliding_attention"],
        }
    )
    torch.manual_seed(0)
    model.decoder = AutoModelForCausalLM.from_config(config).eval()
    assert not can_preallocate(model.causal_lm)
    clips, options = noise(SECONDS), GenerationConfig(min_tokens=30)
    together = text(model, lambda: model.generate(make_batch(model, clips), options))
    for clip, expected in zip(clips, together, strict=True):
        alone = text(model, lambda clip=clip: model.generate(make_batch(model, [clip]), options))
        assert alone == [expected]


def test_the_bundled_decoder_is_preallocated() -> None:
    lm = tiny_audio.load("nano", device="cpu").model
    assert isinstance(start_decoding(lm.causal_lm, prefill(lm), graphs=True), Preallocated)
