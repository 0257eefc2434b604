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

from bench.common import PeakMemory, Table, synchronize
from bench.flops import Flops
from bench.load import TOKENS_PER_SECOND, Collator, durations, spoken_tokens, utterances
from bench.plain import Plain
from tiny_audio.config import GenerationConfig
from tiny_audio.data.batching import length_batches
from tiny_audio.data.records import Utterance
from tiny_audio.model import encoder
from tiny_audio.model.generate import Hypothesis
from tiny_audio.model.quantise import quantise
from tiny_audio.model.speech import SpeechModel

OPTIONS = GenerationConfig(
    tokens_per_second=TOKENS_PER_SECOND, min_tokens=1, stop_loops=False, no_speech_threshold=None
)


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


def variants(model: SpeechModel, pool: list[Utterance]) -> Iterator[Variant]:
    """The rows, in order: every measure is switched on in turn. What is slow is measured on the
    first few: its rate is steady."""
    cuda = model.device.type == "cuda"
    plain = Plain(model)
    few = [[u] for u in pool[:8]]

    def by_hand(padding: str, members: list[Utterance]) -> list[list[int]]:
        (one,) = members
        n_audio = model.audio_tokens(len(one.waveform))
        return [plain.transcribe(one.waveform, padding, n_audio, spoken_tokens(one))]

    def ours(members: list[Utterance], model: SpeechModel = model) -> list[list[int]]:
        return [h.token_ids for h in transcribe(model, members)]

    def by_length(members: list[Utterance], size: int) -> list[list[Utterance]]:
        return length_batches(members, batch_seconds=math.inf, max_utterances=size)

    size = 64 if cuda else 16
    part = pool[:128]
    mixed = [part[i : i + size] for i in range(0, len(part), size)]
    sorted_ = by_length(part, size)
    quiet = ", cuDNN's attention off" if cuda else ""
    yield Variant(
        "plain: one at a time, padded to 30 s", few, partial(by_hand, "max_length"), True, cuda
    )
    alone = few if cuda else [[u] for u in pool]
    yield Variant(f"plain: not padded{quiet}", alone, partial(by_hand, "longest"), exact=not cuda)
    yield Variant("ours: one at a time", few, ours)
    yield Variant(f"+ batches of {size} as they come", mixed, ours, without=("pieces", "graphs"))
    yield Variant("+ batches by length", sorted_, ours, without=("pieces", "graphs"))
    if cuda:
        yield Variant("+ CUDA graphs", sorted_, ours)
        for n in (256, 768):
            yield Variant(f"+ batches of {n}", by_length(pool, n), ours)
    else:
        yield Variant("+ encoder in pieces", sorted_, ours)
    for name, half, kind in SMALLER[2:] if cuda else SMALLER:
        other = copy.deepcopy(model)
        if half:
            other.encoder.to(torch.bfloat16)
            other.causal_lm.to(torch.bfloat16)
        if kind:
            quantise(other, kind)
        yield Variant(f"the same, {name}", sorted_, partial(ours, model=other), exact=False)


SMALLER = [  # weights: name, in bfloat16 (as all are on CUDA), quantised
    ("bfloat16", True, None),
    ("bfloat16 and int8", True, "int8"),
    ("int8", False, "int8"),
]
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


def run(model: SpeechModel, ceiling: float, memory: PeakMemory, kind: str) -> None:
    """Print the table of one kind of utterances, and whose tokens are those of the plain way."""
    torch.set_float32_matmul_precision("high")
    model.eval()
    flops = Flops(model)
    pool = utterances(durations(kind, 768 if model.device.type == "cuda" else 64))
    table = Table(f"transcription, {kind}", ceiling)
    measured: list[tuple[Variant, float, dict[str, list[int]]]] = []
    for variant in variants(model, pool):
        memory.start()
        try:
            with switched_off(variant.without):
                seconds, tokens = _measure(model, variant)
        except torch.cuda.OutOfMemoryError:
            table.failed(variant.name, "out of memory")
            continue
        rate = table.add(
            *(variant.name, seconds, variant.batches, flops.inference, memory.read()),
            window=variant.window,
        )
        measured.append((variant, rate, tokens))
    plain, plain_rate, expected = measured[1]
    print(f"\nBeside `{plain.name}`:")
    for variant, rate, tokens in measured[2:]:
        both = expected.keys() & tokens.keys()
        same = sum(tokens[key] == expected[key] for key in both)
        note = "" if variant.exact else " (not all expected)"
        times = f"{rate / plain_rate:.2f} x"
        print(f"- {variant.name}: {times}, the same tokens {same} of {len(both)}{note}", flush=True)


def _measure(model: SpeechModel, variant: Variant) -> tuple[float, dict[str, list[int]]]:
    """Seconds for all batches, and the token ids of each utterance."""
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
    return clock() - start, written
