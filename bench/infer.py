"""Speed of transcription: one recording at a time as in transformers, then ours in batches.

Every recording gets a fixed number of new tokens, three for a second of audio, so that random
weights do the work that real ones would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.common import Ceiling, PeakMemory, Row, Table, synchronize
from bench.flops import Flops
from bench.load import TOKENS_PER_SECOND, WINDOW, Collator, durations, utterances
from bench.plain import Plain
from tiny_audio.config import GenerationConfig
from tiny_audio.data.batching import length_batches
from tiny_audio.data.utterance import Utterance
from tiny_audio.model.generate import Hypothesis
from tiny_audio.model.speech import SpeechModel

OPTIONS = GenerationConfig(tokens_per_second=TOKENS_PER_SECOND, min_tokens=1)


def new_tokens(utterance: Utterance) -> int:
    """Tokens that every variant writes for a recording."""
    return math.ceil(utterance.seconds * TOKENS_PER_SECOND)


def transcribe(model: SpeechModel, members: list[Utterance]) -> list[Hypothesis]:
    """Ours: one ragged batch."""
    load = Collator(model, None, labels=False)(members)
    return model.generate(load.batch.to(model.device), OPTIONS)


@dataclass(frozen=True)
class Variant:
    """One row."""

    name: str
    batches: list[list[Utterance]]
    run: Callable[[list[Utterance]], object]
    window: bool = False  # padded to 30 s
    cudnn: bool = False  # cuDNN's attention, PyTorch's first choice on Hopper and Blackwell


def variants(model: SpeechModel, pool: list[Utterance]) -> list[Variant]:
    """The rows, in order. One at a time is measured on the first few: its rate is steady."""
    cuda = model.device.type == "cuda"
    plain = Plain(model)
    single = [[u] for u in pool[:5]]

    def by_hand(padding: str) -> Callable[[list[Utterance]], object]:
        def run(members: list[Utterance]) -> object:
            (one,) = members
            n_audio = model.audio_tokens(len(one.waveform))
            return plain.transcribe(one.waveform, padding, n_audio, new_tokens(one))

        return run

    def ours(members: list[Utterance]) -> object:
        return transcribe(model, members)

    def by_length(members: list[Utterance], size: int) -> list[list[Utterance]]:
        return length_batches(members, batch_seconds=math.inf, max_utterances=size)

    size = 64 if cuda else 8
    few = pool[:128]
    mixed = [few[i : i + size] for i in range(0, len(few), size)]
    quiet = ", cuDNN's attention off" if cuda else ""
    rows = [
        Variant("plain: one at a time, padded to 30 s", single, by_hand("window"), True, cuda),
        Variant(f"plain: not padded{quiet}", single, by_hand("longest")),
        Variant("ours: one at a time", single, ours),
        Variant(f"ours: batches of {size} as they come", mixed, ours),
        Variant(f"ours: batches of {size}, sorted by length", by_length(few, size), ours),
    ]
    if cuda:
        rows += [
            Variant(f"ours: batches of {n}, sorted", by_length(pool, n), ours) for n in (256, 768)
        ]
    return rows


def run(model: SpeechModel, ceiling: Ceiling, memory: PeakMemory, kind: str) -> None:
    """Print the table of one kind of utterances."""
    torch.set_float32_matmul_precision("high")
    model.eval()
    flops = Flops(model)
    pool = utterances(durations(kind, 768 if model.device.type == "cuda" else 32))
    table = Table(f"transcription, {kind}", ceiling)
    for variant in variants(model, pool):
        memory.start()
        try:
            table.add(_measure(model, variant, flops, memory))
        except torch.cuda.OutOfMemoryError:
            table.failed(variant.name, "out of memory")


def _measure(model: SpeechModel, variant: Variant, flops: Flops, memory: PeakMemory) -> Row:
    torch.backends.cuda.enable_cudnn_sdp(variant.cudnn)
    first = variant.batches[0]
    variant.run(first if model.device.type == "cuda" else first[:2])  # warm up
    synchronize(model.device)
    start = time.perf_counter()
    for batch in variant.batches:
        variant.run(batch)
    synchronize(model.device)
    seconds = time.perf_counter() - start
    members = [u for batch in variant.batches for u in batch]
    padded = (WINDOW if variant.window else max(u.seconds for u in b) for b in variant.batches)
    return Row(
        variant=variant.name,
        seconds=seconds,
        steps=len(variant.batches),
        audio=sum(u.seconds for u in members),
        padded=sum(s * len(b) for s, b in zip(padded, variant.batches, strict=True)),
        flops=sum(flops.inference(len(u.waveform), new_tokens(u)) for u in members),
        peak=memory.read(),
    )
