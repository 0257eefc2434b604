"""The training loop, all of it: one process, DDP and FSDP run the same lines.

evaluate weights that were trained before
while steps are left:
    take the micro-batches of one step, count their label tokens over all processes
    for each micro-batch: loss / tokens, backward; in parts where memory runs out
    fetch the next micro-batches while the device computes
    clip, stop if anything is not finite, set the rate, update
    now and then: log, evaluate, save
    asked to stop, or no data left: save and leave
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from tiny_audio.config import TrainingConfig
from tiny_audio.errors import TinyAudioError
from tiny_audio.model.batch import IGNORE, Batch
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.display import not_finite, out_of_memory
from tiny_audio.train.distributed import (
    StopSignal,
    is_sharded,
    sum_gradients,
    total,
    whole_tensor,
)
from tiny_audio.train.evaluation import Evaluation
from tiny_audio.train.memory import MemoryGuard
from tiny_audio.train.metrics import MetricsAccumulator, Reporter, id_numbers
from tiny_audio.train.prefetch import Prefetcher
from tiny_audio.train.stages import lr_multiplier, set_lr, training_mode


class DivergedError(TinyAudioError):
    """The loss or a gradient is not a finite number; the weights were not updated with it."""


@dataclass(eq=False)
class Trainer:
    """A run in progress: everything that changes from step to step."""

    settings: TrainingConfig
    accelerator: Accelerator
    module: nn.Module  # the model, prepared by `accelerator`
    model: SpeechModel  # the same, bare
    optimizer: torch.optim.Optimizer  # prepared by `accelerator`
    stream: Prefetcher  # training batches of this process
    report: Reporter
    evaluate: Callable[[], Evaluation] | None  # on the held-out set; None: there is none
    save: Callable[[Trainer, Evaluation | None], None]  # a checkpoint, scored if just evaluated
    to_device: Callable[[Batch], Batch]  # of a batch or a part of one; may give it encoder frames
    evaluate_start: bool = False  # before the first step: the weights were trained before

    guard: MemoryGuard = field(default_factory=MemoryGuard)
    sharded: bool = False  # by FSDP
    step: int = 0  # updates done
    metrics: MetricsAccumulator = field(default_factory=MetricsAccumulator)
    rates: dict[str, float] = field(default_factory=dict)  # of the newest update, by part

    def run(self) -> int | None:
        """Train until ``max_steps``. Returns the signal that ended the run early, if one did."""
        settings = self.settings
        training_mode(self.model, settings.learns)
        self.sharded = is_sharded(self.module)
        batches = iter(self.stream)
        with StopSignal(patient=self.accelerator.num_processes > 1) as stop:
            if self.evaluate and self.evaluate_start and self.step == 0 and not self.report.rows:
                self._evaluate(self.evaluate)
            while self.step < settings.max_steps and not self.report.stale:
                going = self._update(batches)  # False: the data has ended
                self.step += going
                last = not going or self.step == settings.max_steps
                if self.metrics.steps and self._due(settings.logging_steps, last):
                    self._log()
                stopping = self._any_process(stop.received is not None)
                evaluation = None
                if self.evaluate and not stopping and self._due(settings.eval_steps, last):
                    evaluation = self._evaluate(self.evaluate)
                best = evaluation is not None and self.report.is_best()
                due = self._due(settings.save_steps)
                if last or stopping or best or self.report.stale or due:
                    self.save(self, evaluation)
                if stopping:
                    return stop.received or signal.SIGTERM  # another process was told
                if not going:
                    break
        return None

    def _update(self, batches: Iterator[Batch]) -> bool:
        """Make one update out of the next micro-batches; False where there are none."""
        settings = self.settings
        self.metrics.begin_step()
        taken = islice(batches, settings.gradient_accumulation_steps)
        window = [replace(batch, epoch=self.stream.epoch) for batch in taken]
        labels = [batch.labels for batch in window if batch.labels is not None]
        count = float(sum(int((one[:, 1:] != IGNORE).sum()) for one in labels))
        tokens, ranks = self._total([count, float(bool(window))])
        if ranks < self.accelerator.num_processes:
            return False
        for one in labels:
            self.report.count_labels(one)
        ooms_before = self.guard.times
        losses = self.guard.run(  # of each micro-batch: total, cross-entropy, auxiliary
            window,
            lambda part, last: self._backward(part, tokens, last),
            lambda: self.optimizer.zero_grad(set_to_none=True),
            recover=not self.sharded,
        )
        if self.step + 1 < settings.max_steps:  # while the device computes
            self.stream.fetch(settings.gradient_accumulation_steps)
        sum_gradients(self.module, self.accelerator)
        norm = self._clip()
        values = torch.stack(losses).tolist()  # waits for the device, once in a step
        self._check_finite(norm, [whole for whole, _, _ in values], window)
        rate = lr_multiplier(
            self.step, settings.warmup_steps, settings.max_steps, settings.min_lr_rate
        )
        self.rates = set_lr(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._count(window, values, tokens, norm, self.guard.times - ooms_before)
        return True

    def _backward(self, part: Batch, tokens: float, last: bool) -> Tensor:
        """Add the gradient of a part, over the label tokens of the global batch; its sums [3]."""
        processes = self.accelerator.num_processes if self.sharded else 1
        part = self.to_device(part)
        with nullcontext() if self.sharded and last else self.accelerator.no_sync(self.module):
            with self.accelerator.autocast():
                sums = self.module(part)
            # The mean over processes that FSDP takes is undone, so that every label token of the
            # global batch weighs the same, wherever and in whichever micro-batch it is.
            self.accelerator.backward(sums[0] * (processes / tokens))
        return torch.stack([value.detach().float() for value in sums])

    def _clip(self) -> float:
        """Scale the gradients of the global batch down to ``max_grad_norm``; the norm before."""
        limit = self.settings.max_grad_norm if self.settings.max_grad_norm > 0 else math.inf
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), limit)
        return float(whole_tensor(norm))

    def _check_finite(self, norm: float, totals: list[float], window: list[Batch]) -> None:
        """Raise DivergedError, naming samples, if this step would spoil the weights."""
        bad = [not math.isfinite(value) for value in totals]
        if not self._any_process(any(bad) or not math.isfinite(norm)):
            return
        guilty = [b for b, is_bad in zip(window, bad, strict=True) if is_bad]
        ids: list[str] = gather_object([i for batch in guilty for i in batch.ids])
        what = "loss" if ids else "gradient"
        if not ids:
            ids = gather_object([i for batch in window for i in batch.ids])
        raise DivergedError(not_finite(self.step + 1, what, ids))

    def _count(
        self, window: list[Batch], values: list[list[float]], tokens: float, norm: float, ooms: int
    ) -> None:
        """Add an update to the metrics. ``values``: total, cross-entropy, auxiliary loss [3]."""
        _, ce_sum, aux_sum = (sum(column) for column in zip(*values, strict=True))
        audio = sum(batch.audio_seconds for batch in window)
        padded = sum(batch.padded_seconds for batch in window)
        ids = id_numbers((i for b in window for i in b.ids), self.accelerator.process_index)
        ce_sum, aux_sum, audio, padded, oom_sum, *samples = self._total(
            [ce_sum, aux_sum, audio, padded, float(ooms), *ids]
        )
        if oom_sum:
            self.report.say(out_of_memory(self.step + 1, int(oom_sum), self.guard.limit))
        self.metrics.end_step(
            grad_norm=norm,
            samples=samples,
            ce_sum=ce_sum,
            aux_sum=aux_sum,
            tokens=tokens,
            audio_seconds=audio,
            padded_seconds=padded,
            ooms=int(oom_sum),
        )

    def _log(self) -> None:
        row: dict[str, Any] = {"kind": "train", "step": self.step, "epoch": self.stream.epoch}
        row |= self.metrics.row() | {f"lr_{part}": rate for part, rate in self.rates.items()}
        self.metrics = MetricsAccumulator()
        self.report.training(row, self.model)

    def _evaluate(self, evaluate: Callable[[], Evaluation]) -> Evaluation:
        evaluation = evaluate()
        training_mode(self.model, self.settings.learns)
        self.report.evaluated(self.step, evaluation)
        return evaluation

    def _due(self, every: int, last: bool = False) -> bool:
        return every > 0 and (last or self.step % every == 0)

    def _any_process(self, flag: bool) -> bool:
        """Whether the flag is set in any process; the same answer in all of them."""
        return self._total([float(flag)])[0] > 0

    def _total(self, values: list[float]) -> list[float]:
        return total(values, self.accelerator)

    def state_dict(self) -> Mapping[str, Any]:
        """The state of the run, weights, data and random states aside; plain values and tensors."""
        return {
            "step": self.step,
            "learns": sorted(self.settings.learns),
            "optimizer": self.optimizer.state_dict(),
            "tally": self.metrics.state_dict(),
            "memory_limit": self.guard.limit,
            "monitor": self.report.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` described; the optimizer is restored apart."""
        self.step = state["step"]
        self.metrics = MetricsAccumulator.from_state(state["tally"])
        self.guard.limit = state.get("memory_limit", math.inf)
        self.report.load_state_dict(state["monitor"])
