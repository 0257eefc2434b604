"""What is gained where the encoder need not run again: a second pass with the encoder cache."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from bench.common import Table, synchronize
from bench.flops import Flops
from bench.load import Collator
from bench.train import Bench, as_large_as_fixed, cut
from tiny_audio.model.batch import Batch
from tiny_audio.model.encoder_cache import FrameStore
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.cached_features import CachedFeatures

BATCHES = 4
Ready = Callable[[Batch], Batch]


def run(bench: Bench) -> None:
    """Print the table: each row is one pass over the same few batches."""
    model = bench.model.train()
    flops = Flops(model)
    table = Table(f"passes, {bench.kind}", bench.ceiling)
    members = cut(bench.pool, as_large_as_fixed(bench.rows()[-1], bench.plan), bench.plan)
    members = members[: BATCHES + 1]  # the first is warmth
    collate = Collator(model, None, labels=True)
    batches = [collate(one).batch for one in members]

    def add(name: str, ready: Ready) -> None:
        _steps(model, batches[:1], ready)
        bench.memory.start()
        seconds = _steps(model, batches[1:], ready)
        table.add(name, seconds, members[1:], flops.training, bench.memory.read())

    def device(batch: Batch) -> Batch:
        return batch.to(model.device)

    add("a pass without the cache", device)
    with tempfile.TemporaryDirectory() as folder:
        store = FrameStore(Path(folder), {"bench": bench.kind}, model.encoder.width)
        cached = CachedFeatures(model, store, variants=1, autocast=nullcontext, say=print)
        add("first pass with it: compute and write", cached)
        add("second pass: read", cached)


def _steps(model: SpeechModel, batches: Sequence[Batch], ready: Ready) -> float:
    """Seconds for forward and backward over the batches."""
    cuda = model.device.type == "cuda"
    synchronize(model.device)
    start = time.perf_counter()
    for batch in batches:
        with torch.autocast("cuda", torch.bfloat16) if cuda else nullcontext():
            whole = ready(batch)
            loss = model.loss(whole)
        loss.total.backward()
        model.projector.zero_grad(set_to_none=True)
    synchronize(model.device)
    return time.perf_counter() - start
