"""Speed of transcription: one at a time as in transformers, then ours, measure by measure.

Every recording gets a fixed number of new tokens, three for a second of audio, so that random
weights do the work that real ones would. On a CPU with one thread the clock is the process's own,
which a busy machine disturbs less.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import torch

from bench.common import Ceiling, PeakMemory, Row, Table, synchronize
from bench.flops import Flops
from bench.load import TOKENS_PER_SECOND, WINDOW, Collator, durations, utterances
from bench.plain import Plain
from tiny_audio.config import GenerationConfig
from tiny_audio.data.batching import length_batches
from tiny_audio.data.records import Utterance
from tiny_audio.model import encoder
from tiny_audio.model.generate import Hypothesis
from tiny_audio.model.quantise import KINDS, quantise
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
    run: Callable[[list[Utterance]], list[list[int]]]  # token ids of each
    window: bool = False  # padded to 30 s
    cudnn: bool = False  # cuDNN's attention, PyTorch's first choice on Hopper and Blackwell
    without: tuple[str, ...] = ()  # measures that are off
    exact: bool = True  # the tokens of the plain way are expected


@dataclass(frozen=True)
class Measured:
    """What is compared of a row."""

    name: str
    exact: bool
    rate: float  # seconds of audio a second
    tokens: dict[str, list[int]]  # utterance -> ids


def variants(model: SpeechModel, pool: list[Utterance]) -> Iterator[Variant]:
    """The rows, in order: every measure is switched on in turn. What is slow is measured on the
    first few: its rate is steady."""
    cuda = model.device.type == "cuda"
    plain = Plain(model)
    few = [[u] for u in pool[:8]]

    def by_hand(padding: str) -> Callable[[list[Utterance]], list[list[int]]]:
        def run(members: list[Utterance]) -> list[list[int]]:
            (one,) = members
            n_audio = model.audio_tokens(len(one.waveform))
            return [plain.transcribe(one.waveform, padding, n_audio, new_tokens(one))]

        return run

    def ours(members: list[Utterance]) -> list[list[int]]:
        return [h.token_ids for h in transcribe(model, members)]

    def by_length(members: list[Utterance], size: int) -> list[list[Utterance]]:
        return length_batches(members, batch_seconds=math.inf, max_utterances=size)

    size = 64 if cuda else 16
    part = pool[:128]
    mixed = [part[i : i + size] for i in range(0, len(part), size)]
    sorted_ = by_length(part, size)
    quiet = ", cuDNN's attention off" if cuda else ""
    yield Variant("plain: one at a time, padded to 30 s", few, by_hand("window"), True, cuda)
    alone = few if cuda else [[u] for u in pool]
    yield Variant(f"plain: not padded{quiet}", alone, by_hand("longest"), exact=not cuda)
    yield Variant("ours: one at a time", few, ours)
    yield Variant(f"+ batches of {size} as they come", mixed, ours, without=("pieces", "graphs"))
    yield Variant("+ batches by length", sorted_, ours, without=("pieces", "graphs"))
    if cuda:
        yield Variant("+ CUDA graphs", sorted_, ours)
        for n in (256, 768):
            yield Variant(f"+ batches of {n}", by_length(pool, n), ours)
    else:
        yield Variant("+ encoder in pieces", sorted_, ours)
    for name, change in [] if cuda else CHANGES_ON_CPU:
        yield Variant(f"the same, {name}", sorted_, _changed(model, change), exact=False)
    for kind in KINDS:
        as_kind = _changed(model, partial(quantise, kind=kind))
        yield Variant(f"the same, {kind}", sorted_, as_kind, exact=False)


def in_bfloat16(model: SpeechModel) -> SpeechModel:
    """Frozen weights in bfloat16."""
    model.encoder.to(torch.bfloat16)
    model.causal_lm.to(torch.bfloat16)
    return model


CHANGES_ON_CPU: list[tuple[str, Callable[[SpeechModel], SpeechModel]]] = [
    ("bfloat16", in_bfloat16),
    ("bfloat16 and int8", lambda model: quantise(in_bfloat16(model), "int8")),
]


def _changed(
    model: SpeechModel, change: Callable[[SpeechModel], SpeechModel]
) -> Callable[[list[Utterance]], list[list[int]]]:
    """Transcription by a copy of the model, which is made when the first batch comes."""
    made: list[SpeechModel] = []

    def run(members: list[Utterance]) -> list[list[int]]:
        if not made:
            made.append(change(copy.deepcopy(model)))
        return [h.token_ids for h in transcribe(made[0], members)]

    return run


MEASURES: dict[str, tuple[object, str, object]] = {  # owner, attribute, its value without it
    "pieces": (encoder, "_CACHED_FRAMES", 10**9),  # on a CPU the encoder takes a batch in pieces
    "graphs": (OPTIONS, "cuda_graphs", False),
}


@contextmanager
def switched_off(measures: tuple[str, ...]) -> Iterator[None]:
    """Without these measures."""
    with ExitStack() as stack:
        for measure in measures:
            stack.enter_context(patch.object(*MEASURES[measure]))
        yield


def run(model: SpeechModel, ceiling: Ceiling, memory: PeakMemory, kind: str) -> None:
    """Print the table of one kind of utterances, and whose tokens are those of the plain way."""
    torch.set_float32_matmul_precision("high")
    model.eval()
    flops = Flops(model)
    pool = utterances(durations(kind, 768 if model.device.type == "cuda" else 64))
    table = Table(f"transcription, {kind}", ceiling)
    measured: list[Measured] = []
    for variant in variants(model, pool):
        memory.start()
        try:
            with switched_off(variant.without):
                row, tokens = _measure(model, variant, flops, memory)
            table.add(row)
            measured.append(Measured(variant.name, variant.exact, row.rate, tokens))
        except torch.cuda.OutOfMemoryError:
            table.failed(variant.name, "out of memory")
    _compare(measured)


def _compare(measured: list[Measured]) -> None:
    """Print each row's rate beside the second one's, and how many utterances of both have the same
    tokens."""
    plain = measured[1]
    print(f"\nBeside `{plain.name}`:")
    for row in measured[2:]:
        both = plain.tokens.keys() & row.tokens.keys()
        same = sum(row.tokens[key] == plain.tokens[key] for key in both)
        note = "" if row.exact else " (not all expected)"
        print(
            f"- {row.name}: {row.rate / plain.rate:.2f} x, "
            f"the same tokens {same} of {len(both)}{note}",
            flush=True,
        )


def _measure(
    model: SpeechModel, variant: Variant, flops: Flops, memory: PeakMemory
) -> tuple[Row, dict[str, list[int]]]:
    torch.backends.cuda.enable_cudnn_sdp(variant.cudnn)
    first = variant.batches[0]
    variant.run(first if model.device.type == "cuda" else first[:2])  # warm up
    written: dict[str, list[int]] = {}
    synchronize(model.device)
    alone = model.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    start = clock()
    for batch in variant.batches:
        ids = variant.run(batch)
        written |= {u.id: of_one for u, of_one in zip(batch, ids, strict=True)}
    synchronize(model.device)
    seconds = clock() - start
    members = [u for batch in variant.batches for u in batch]
    padded = (WINDOW if variant.window else max(u.seconds for u in b) for b in variant.batches)
    row = Row(
        variant=variant.name,
        seconds=seconds,
        steps=len(variant.batches),
        audio=sum(u.seconds for u in members),
        padded=sum(s * len(b) for s, b in zip(padded, variant.batches, strict=True)),
        flops=sum(flops.inference(len(u.waveform), new_tokens(u)) for u in members),
        peak=memory.read(),
    )
    return row, written
