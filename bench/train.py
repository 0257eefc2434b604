"""Speed of a training step: the plain way, then ours with one measure after another switched on.

python -m bench train --pair small
python -m bench train --pair glm_qwen3 --random --compile
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.profiler import ProfilerActivity, profile

from bench.common import PeakMemory, Table, synchronize
from bench.flops import Flops
from bench.load import Collator, Load, durations, feed, utterances
from bench.plain import Plain
from tiny_audio.data.batching import length_batches
from tiny_audio.data.records import Utterance
from tiny_audio.model.batch import Batch, label_positions
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.encoder_cache import CachedEncoder, FrameStore


@dataclass(frozen=True)
class Variant:
    """One row: what is switched on."""

    name: str
    plain: bool = False
    host_mel: str | None = None  # max_length | longest; None: the device makes it
    full_logits: bool = False
    budget: float | None = None  # seconds of padded audio; None: random batches of a fixed number
    cudnn: bool = True  # PyTorch's choice on Hopper and Blackwell: cuDNN's attention first
    autocast: bool = True  # around everything; False: each part in its own dtype
    padding_mask: bool = True  # for the decoder
    own_loss: bool = False  # the model's own, which makes logits in pieces
    compiled: str = ""  # layers of: encoder | both


class Step:
    """One optimizer step of a variant."""

    def __init__(self, model: SpeechModel, variant: Variant) -> None:
        self.model, self.variant = model, variant
        torch.backends.cuda.enable_cudnn_sdp(variant.cudnn)
        self.plain = Plain(model) if variant.plain else None
        self.cuda = model.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            model.projector.parameters(), lr=1e-5, fused=self.cuda or None
        )

    def __call__(self, load: Load) -> None:
        mixed = self.cuda and self.variant.autocast
        with torch.autocast("cuda", torch.bfloat16) if mixed else nullcontext():
            loss = self.loss(load)
        loss.backward()
        clip_grad_norm_(self.model.projector.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def loss(self, load: Load) -> Tensor:
        """Mean over label tokens."""
        if self.plain is not None:
            return self.plain.loss(load)
        model, batch = self.model, load.batch
        assert batch.labels is not None
        if self.variant.own_loss:
            loss = model.loss(batch)
            return loss.total / loss.n_tokens
        if load.features is None:
            tokens, _ = model.embed_audio(batch.waveform, batch.waveform_lengths)
        else:
            with torch.no_grad():
                lengths = model.features.out_len(batch.waveform_lengths)
                frames, lengths = model.encoder(load.features, lengths)
            tokens = model.projector(frames, lengths)
        prefill = model.splice(tokens, batch)
        lm: Any = model.causal_lm
        inputs: dict[str, Any] = {"inputs_embeds": prefill.inputs_embeds, "use_cache": False}
        if self.variant.padding_mask:
            inputs["attention_mask"] = prefill.attention_mask
            inputs["position_ids"] = prefill.position_ids
        if self.variant.full_logits:
            return lm(**inputs, labels=batch.labels).loss  # type: ignore[no-any-return]
        places = label_positions(batch.labels)
        states = lm.base_model(**inputs).last_hidden_state.flatten(0, 1)[places]
        logits = lm.get_output_embeddings()(states)
        return cross_entropy(logits.float(), batch.labels.flatten()[places + 1])


@dataclass(frozen=True)
class Plan:
    """How much is measured, and on which batches."""

    fixed: int  # utterances in a batch of the plain way
    same: float  # budget in seconds that holds as much audio as a plain batch on average
    large: float | None  # the largest budget that fits
    warm: int
    steps: int


def variants(plan: Plan, *, cuda: bool) -> list[Variant]:
    """The rows, in order; each adds one measure to the row above it."""
    rows = [Variant("plain: padded to 30 s", plain=True, host_mel="max_length", full_logits=True)]

    def add(name: str, **changes: Any) -> None:
        rows.append(replace(rows[-1], name=name, **changes))

    if cuda:
        add("plain: + cuDNN's attention off", cudnn=False)
    add("plain: + padded to the longest", host_mel="longest")
    add("ours: no padding to 30 s", plain=False)
    add("+ logits at labels only", full_logits=False)
    add("+ log-mel on the device", host_mel=None)
    add(f"+ batches by length, {plan.same:.0f} s", budget=plan.same)
    if plan.large is not None:
        add(f"+ {plan.large:.0f} s in a batch", budget=plan.large)
    add("+ decoder without padding mask", padding_mask=False)
    if cuda:  # a CPU trains in fp32
        add("+ no autocast", autocast=False)
    add("+ logits in pieces", own_loss=True)
    return rows


def compiled_variants(eager: Variant) -> list[Variant]:
    """An eager row again, then compiled."""
    return [
        replace(eager, name="eager"),
        replace(eager, name="+ torch.compile of the encoder's layers", compiled="encoder"),
        replace(eager, name="+ and of the decoder's", compiled="both"),
    ]


@dataclass(frozen=True)
class Bench:
    """A pair, what it is measured on, and with what."""

    model: SpeechModel
    ceiling: float
    memory: PeakMemory
    kind: str
    plan: Plan
    pool: list[Utterance]

    @classmethod
    def prepare(cls, model: SpeechModel, ceiling: float, memory: PeakMemory, kind: str) -> Bench:
        """Choose batch sizes and draw utterances of one kind."""
        torch.set_float32_matmul_precision("high")  # as the training command does
        model.train()
        pool = utterances(durations(kind, 2048 if model.device.type == "cuda" else 256))
        return cls(model, ceiling, memory, kind, make_plan(model, kind), pool)

    def rows(self) -> list[Variant]:
        """Every eager row."""
        return variants(self.plan, cuda=self.model.device.type == "cuda")

    def last_row(self) -> Variant:
        """The last of them, on batches as large as the plain way's."""
        return replace(self.rows()[-1], budget=self.plan.same)


def run(bench: Bench, title: str, rows: list[Variant]) -> None:
    """Print the table of the given rows."""
    model = bench.model
    model.train()
    flops = Flops(model)
    table = Table(f"{title}, {bench.kind}", bench.ceiling)
    for variant in rows:
        layers = _layers(model, variant.compiled)
        for layer in layers:
            layer.compile(dynamic=True)
        try:
            timed, seconds, waited = measure(bench, variant)
            table.add(
                *(variant.name, seconds, timed, flops.training, bench.memory.read()),
                window=variant.host_mel == "max_length",
                waited=waited,
            )
        except torch.cuda.OutOfMemoryError:
            table.failed(variant.name, "out of memory")
        except RuntimeError as error:
            if not layers:
                raise
            table.failed(variant.name, str(error).strip().splitlines()[0])
        finally:
            for layer in layers:
                layer._compiled_call_impl = None  # eager again


def measure(bench: Bench, variant: Variant) -> tuple[list[list[Utterance]], float, float]:
    """Time the plan's steps; their batches, the seconds, and those of them waiting for input.

    The heaviest batch comes first, before the clock starts.
    """
    model, plan = bench.model, bench.plan
    batches = cut(bench.pool, variant, plan)
    window = variant.host_mel == "max_length"
    heaviest = max(batches, key=lambda b: len(b) * (1 if window else max(u.seconds for u in b)))
    batches = [heaviest, *batches][: plan.warm + plan.steps]
    step = Step(model, variant)
    bench.memory.start()
    loads = feed(batches, Collator(model, variant.host_mel, labels=True), model.device)
    start = waited = 0.0
    for number in range(len(batches)):
        if number == plan.warm:
            synchronize(model.device)
            start, waited = time.perf_counter(), 0.0
        asked = time.perf_counter()
        load = next(loads)
        waited += time.perf_counter() - asked
        step(load.to(model.device))
    synchronize(model.device)
    seconds = time.perf_counter() - start
    # On a CPU making the input is part of the work.
    return batches[plan.warm :], seconds, waited if model.device.type == "cuda" else 0.0


def profile_step(bench: Bench, variant: Variant) -> None:
    """Print the kernels that take most of one step of a variant."""
    members = cut(bench.pool, variant, bench.plan)[1]
    load = Collator(bench.model, variant.host_mel, labels=True)(members).to(bench.model.device)
    step = Step(bench.model.train(), variant)
    for _ in range(3):
        step(load)
    cuda = bench.model.device.type == "cuda"
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as trace:
        step(load)
        synchronize(bench.model.device)
    print(f"\n### one step of '{variant.name}', {sum(u.seconds for u in members):.0f} s of audio\n")
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    print(trace.key_averages().table(sort_by=key, row_limit=16), flush=True)


def cut(pool: list[Utterance], variant: Variant, plan: Plan) -> list[list[Utterance]]:
    """The pool in batches: of a fixed number at random, or by length."""
    if variant.budget is None:
        return [pool[i : i + plan.fixed] for i in range(0, len(pool), plan.fixed)]
    return length_batches(
        pool, batch_seconds=variant.budget, max_utterances=len(pool), rng=np.random.default_rng(0)
    )


def make_plan(model: SpeechModel, kind: str) -> Plan:
    """Batch sizes: on CUDA the largest that fit, tried on the longest utterances."""
    lengths = durations(kind, 4096)
    mean, longest = sum(lengths) / len(lengths), max(lengths)
    if model.device.type != "cuda":
        fixed = 4
        return Plan(fixed, fixed * mean, None, warm=1, steps=2)

    total = torch.cuda.get_device_properties(model.device).total_memory

    def fits(variant: Variant, count: int) -> bool:
        model.projector.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        load = Collator(model, variant.host_mel, labels=True)(utterances([longest] * count))
        try:
            Step(model, variant)(load.to(model.device))
        except torch.cuda.OutOfMemoryError:
            return False
        return torch.cuda.max_memory_reserved() < 0.9 * total

    plain = Variant("plain", plain=True, host_mel="max_length", full_logits=True, cudnn=False)
    fixed = _largest([48, 32, 24, 16, 8, 4, 2, 1], lambda n: fits(plain, n))
    ours = Variant("ours", cudnn=False)
    large = _largest([1800, 1200, 600, 300], lambda s: fits(ours, int(s / longest)))
    return Plan(fixed, fixed * mean, float(large), warm=2, steps=9)


def _largest(sizes: list[int], fits: Callable[[int], bool]) -> int:
    return next((size for size in sizes if fits(size)), sizes[-1])


def _layers(model: SpeechModel, which: str) -> list[Any]:
    """The layers to compile, each alone: all of one stack share one program, which serves every
    shape, so that it takes seconds."""
    lm: Any = model.causal_lm
    tower: Any = model.encoder.tower
    encoder, decoder = list(tower.layers), list(lm.base_model.layers)
    return {"": [], "encoder": encoder, "both": encoder + decoder}[which]


def run_passes(bench: Bench) -> None:
    """Print what is gained where the encoder need not run again: each row is one pass over the
    same few batches, the last with a filled encoder cache."""
    model = bench.model.train()
    flops = Flops(model)
    table = Table(f"passes, {bench.kind}", bench.ceiling)
    members = cut(bench.pool, bench.last_row(), bench.plan)
    members = members[:5]  # the first is warmth
    collate = Collator(model, None, labels=True)
    batches = [collate(one).batch for one in members]

    def add(name: str, ready: Callable[[Batch], Batch]) -> None:
        _pass_seconds(model, batches[:1], ready)
        bench.memory.start()
        seconds = _pass_seconds(model, batches[1:], ready)
        table.add(name, seconds, members[1:], flops.training, bench.memory.read())

    def device(batch: Batch) -> Batch:
        return batch.to(model.device)

    add("a pass without the cache", device)
    with tempfile.TemporaryDirectory() as folder:
        store = FrameStore(Path(folder), {"bench": bench.kind}, model.encoder.width)
        cached = CachedEncoder(model, store, variants=1, autocast=nullcontext, say=print)
        add("first pass with it: compute and write", cached)
        add("second pass: read", cached)


def _pass_seconds(
    model: SpeechModel, batches: Sequence[Batch], ready: Callable[[Batch], Batch]
) -> float:
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
