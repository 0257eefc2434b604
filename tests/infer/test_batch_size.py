"""A batch that does not fit is halved and repeated; nothing is lost, done twice or reordered."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.infer.helpers import tones
from tiny_audio.config import GenerationConfig
from tiny_audio.errors import ModelError
from tiny_audio.infer.memory import bytes_per_second, in_parts, largest_batch
from tiny_audio.infer.recognise import recognise
from tiny_audio.infer.transcribe import Recogniser

LENGTHS = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=20), max_size=6)
OPTIONS = GenerationConfig(tokens_per_second=4.0, min_tokens=6)


FULL = "CUDA out of memory. Tried to allocate 2 GiB."


@given(LENGTHS, st.integers(30, 300))
def test_every_item_is_done_once_and_in_order(batches: list[list[int]], room: int) -> None:
    done: list[int] = []
    failures = 0

    def run(batch: list[int]) -> None:
        nonlocal failures
        if len(batch) * max(batch) > room:
            failures += 1
            raise torch.OutOfMemoryError(FULL)
        done.extend(batch)

    limit = in_parts(batches, float, run, math.inf)
    assert done == [length for batch in batches for length in batch]
    assert limit == math.inf or limit >= room / 2
    assert failures <= 1 + math.log2(20 * 30 / 15)  # what was learned is not forgotten


def test_what_is_no_lack_of_memory_is_raised() -> None:
    def run(_: list[int]) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        in_parts([[1, 2]], float, run, math.inf)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(FULL),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_recognition_goes_on_in_halves(
    recogniser: Recogniser,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The device is made small: anything above six seconds is refused."""
    clips = tones([1.0, 3.0, 2.0, 0.5, 2.5, 1.5])
    options = {"options": OPTIONS, "batch_seconds": 100.0, "max_utterances": 8}
    expected = [found.text for _, found in recognise(recogniser.model, enumerate(clips), **options)]
    generate, refused = recogniser.model.generate, []

    def small(batch, options, **kwargs):  # type: ignore[no-untyped-def]
        if batch.padded_seconds > 6:
            refused.append(len(batch))
            raise error
        return generate(batch, options, **kwargs)

    monkeypatch.setattr(recogniser.model, "generate", small)
    found = [f.text for _, f in recognise(recogniser.model, enumerate(clips), **options)]
    assert (found, refused) == (expected, [6, 3])
    assert [line.count("does not fit into memory") for line in caplog.messages] == [1]  # said once
    long = [(0, np.zeros(7 * 16_000, np.float32))]
    with pytest.raises(ModelError, match="A single clip does not fit"):
        list(recognise(recogniser.model, long, **options))


def test_the_estimate_is_not_below_what_is_held(recogniser: Recogniser) -> None:
    """Of the tensors whose size is plain: waveform and cache."""
    model = recogniser.model
    seconds, utterances = largest_batch(model)
    assert seconds >= model.window_seconds
    assert utterances >= 64
    config = model.causal_lm.config
    cache = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    assert bytes_per_second(model) > 16_000 * 4 + cache * model.audio_tokens(16_000)
