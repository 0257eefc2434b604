"""However the past is kept, the same tokens follow from it."""

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config

from tests.model.helpers import make_batch, noise, tiny_model
from tiny_audio.config import GenerationConfig
from tiny_audio.model.batch import Prefill
from tiny_audio.model.kv_cache import EAGER_STEPS, ROOM, Captured, Growing, Run, can_capture
from tiny_audio.model.speech import SpeechModel

SECONDS = [2.0, 1.1, 0.5, 3.3]


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    built = tiny_model()
    with torch.no_grad():
        for weight in built.projector.parameters():
            weight.mul_(3.0)
    return built


class Recorded:
    """What a CUDA graph is: the same work on the same tensors, its result always in one place."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, run: Run) -> Run:
        self.captures += 1
        logits = run()
        past = run.__self__  # type: ignore[attr-defined]
        before = self.tensors(past)

        def replay() -> Tensor:
            self.replays += 1
            assert self.tensors(past) == before
            logits.copy_(run())
            return logits

        return replay

    @staticmethod
    def tensors(past: Captured) -> list[tuple[int, torch.Size]]:
        """Where everything lies that a captured step reads and writes."""
        read = [past._tokens, past._positions, past._mask]
        for layer in past._layers:
            read += [layer.keys, layer.values, layer.cumulative_length]
        return [(tensor.data_ptr(), tensor.shape) for tensor in read]


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


def test_a_captured_step_gives_the_same_logits(model: SpeechModel) -> None:
    steps, drop = ROOM + 12, {9: [0, 2, 3], 30: [1, 2], 70: [0]}
    start, lm, recorded = prefill(model), model.causal_lm, Recorded()
    assert can_capture(lm)
    captured = walk(Captured(lm, start, recorded), drop, steps)
    for mine, theirs in zip(captured, walk(Growing(lm, start), drop, steps), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert recorded.captures == 5  # at the start, after each drop, and where the cache grew
    assert recorded.replays == steps - 5 * EAGER_STEPS


def test_text_is_transformers_own(model: SpeechModel) -> None:
    """With rows that leave at different times."""
    options = GenerationConfig(tokens_per_second=15.0, min_tokens=20, stop_loops=False)
    ours = model.generate(make_batch(model, noise(SECONDS)), options)
    start = prefill(model)
    theirs = model.causal_lm.generate(
        inputs_embeds=start.inputs_embeds,
        attention_mask=start.attention_mask,
        max_new_tokens=50,
        do_sample=False,
        eos_token_id=model.prompt.end_id,
        pad_token_id=model.prompt.end_id,
    )
    for row, hypothesis in zip(theirs.tolist(), ours, strict=True):
        assert hypothesis.token_ids == row[: len(hypothesis.token_ids)]
        assert hypothesis.finished == (model.prompt.end_id in row[: len(hypothesis.token_ids) + 1])
    assert {len(h.token_ids) for h in ours} >= {20, 30, 50}


def test_a_decoder_with_sliding_windows_is_not_captured_and_padding_changes_nothing() -> None:
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
    assert not can_capture(model.causal_lm)
    clips, options = noise(SECONDS), GenerationConfig(min_tokens=30)
    together = model.generate(make_batch(model, clips), options)
    for clip, expected in zip(clips, together, strict=True):
        (alone,) = model.generate(make_batch(model, [clip]), options)
        assert alone.token_ids == expected.token_ids
