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
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from tiny_audio.errors import TinyAudioError
from tiny_audio.model.batch import IGNORE, Batch
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.ahead import Ahead
from tiny_audio.train.evaluation import Checkup
from tiny_audio.train.interrupt import Asked, StopSignal
from tiny_audio.train.messages import not_finite, out_of_memory
from tiny_audio.train.oom import MemoryGuard
from tiny_audio.train.optim import set_lr
from tiny_audio.train.pace import Pace, Stream
from tiny_audio.train.report import Reporter
from tiny_audio.train.sharding import is_sharded, sum_gradients, total, whole_tensor
from tiny_audio.train.stages import training_mode
from tiny_audio.train.tally import Tally, id_numbers


class DivergedError(TinyAudioError):
    """The loss or a gradient is not a finite number; the weights were not updated with it."""


class Trainer:
    """A run in progress: everything that changes from step to step.

    Args:
        accelerator: processes, devices and number format.
        module: the model, prepared by ``accelerator``.
        model: the same, bare.
        learns: parts that learn.
        optimizer: prepared by ``accelerator``.
        stream: training batches of this process.
        pace: of the run.
        evaluate: scores the model on the held-out set; None where there is none.
        save: writes a checkpoint of the trainer, scored where it was just evaluated.
        report: metrics, notes and display.
        bring: brings a batch, or a part of one, to the device (and gives it encoder frames, see
            frames.py); None: it is copied there.
    """

    def __init__(
        self,
        *,
        accelerator: Accelerator,
        module: nn.Module,
        model: SpeechModel,
        learns: Collection[str],
        optimizer: torch.optim.Optimizer,
        stream: Stream,
        pace: Pace,
        evaluate: Callable[[], Checkup] | None,
        save: Callable[[Trainer, Checkup | None], None],
        report: Reporter,
        bring: Callable[[Batch], Batch] | None = None,
    ) -> None:
        self.accelerator = accelerator
        self.module = module
        self.model = model
        self.learns = learns
        self.optimizer = optimizer
        self.stream = stream
        self.pace = pace
        self.evaluate = evaluate
        self.save = save
        self.report = report
        self.bring = bring or (lambda batch: batch.to(accelerator.device))
        self.guard = MemoryGuard()
        self.sharded = False  # by FSDP
        self.ended_by: int | None = None  # a signal
        self.step = 0  # updates done
        self.tally = Tally()
        self.rates: dict[str, float] = {}  # learning rates of the newest update, by part

    def run(self) -> int | None:
        """Train until ``max_steps``. Returns the signal that ended the run early, if one did."""
        with StopSignal(patient=self.accelerator.num_processes > 1) as stop:
            for _ in self.steps(stop):
                pass
        return self.ended_by

    def steps(self, stop: Asked) -> Iterator[int]:
        """Train one update at a time, and yield its number. ``stop``: looked at after each."""
        training_mode(self.model, self.learns)
        self.sharded = is_sharded(self.module)
        batches = iter(self.stream)
        begins = self.step == 0 and not self.report.monitor.rows
        if begins and self.pace.eval_start and self.evaluate:
            self._checkup(self.evaluate)
        while self.step < self.pace.max_steps and not self.report.stale:
            going = self._update(batches)  # False: the data has ended
            self.step += going
            last = not going or self.step == self.pace.max_steps
            if self.tally.steps and self._due(self.pace.logging_steps, last):
                self._log()
            stopping = self._anyone(stop.received is not None)
            checkup = None
            if self.evaluate and not stopping and self._due(self.pace.eval_steps, last):
                checkup = self._checkup(self.evaluate)
            best = checkup is not None and self.report.is_best()
            if last or stopping or best or self.report.stale or self._due(self.pace.save_steps):
                self.save(self, checkup)
            if stopping:
                self.ended_by = stop.received or signal.SIGTERM  # another process was told
                return
            if not going:
                return
            yield self.step

    def _update(self, batches: Iterator[Batch]) -> bool:
        """Make one update out of the next micro-batches; False where there are none."""
        self.tally.begin_step()
        taken = islice(batches, self.pace.gradient_accumulation_steps)
        window = [replace(batch, epoch=self.stream.epoch) for batch in taken]
        counts = [int((b.labels[:, 1:] != IGNORE).sum()) for b in window if b.labels is not None]
        tokens, ranks = self._total([float(sum(counts)), float(bool(window))])
        if ranks < self.accelerator.num_processes:
            return False
        for batch in window:
            self.report.count_labels(batch)
        times = self.guard.times
        losses = self.guard.run(  # of each micro-batch: total, cross-entropy, auxiliary
            window,
            lambda part, last: self._backward(part, tokens, last),
            lambda: self.optimizer.zero_grad(set_to_none=True),
            recover=not self.sharded,
        )
        if isinstance(self.stream, Ahead) and self.step + 1 < self.pace.max_steps:
            self.stream.fetch(self.pace.gradient_accumulation_steps)  # while the device computes
        sum_gradients(self.module, self.accelerator)
        norm = self._clip()
        values = torch.stack(losses).tolist()  # waits for the device, once in a step
        self._check_finite(norm, [whole for whole, _, _ in values], window)
        self.rates = set_lr(self.optimizer, self.pace.multiplier(self.step))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        audio = sum(batch.audio_seconds for batch in window)
        padded = sum(batch.padded_seconds for batch in window)
        ce_sum, aux_sum = (sum(column) for column in list(zip(*values, strict=True))[1:])
        ids = id_numbers((i for b in window for i in b.ids), self.accelerator.process_index)
        ce_sum, aux_sum, audio, padded, ooms, *samples = self._total(
            [ce_sum, aux_sum, audio, padded, float(self.guard.times - times), *ids]
        )
        if ooms:
            self.report.say(out_of_memory(self.step + 1, int(ooms), self.guard.limit))
        self.tally.end_step(
            ooms=int(ooms),
            ce_sum=ce_sum,
            aux_sum=aux_sum,
            tokens=tokens,
            audio=audio,
            padded=padded,
            grad_norm=norm,
            samples=samples,
        )
        return True

    def _backward(self, part: Batch, tokens: float, last: bool) -> Tensor:
        """Add the gradient of a part, over the label tokens of the global batch; its sums [3]."""
        processes = self.accelerator.num_processes if self.sharded else 1
        part = self.bring(part)
        with nullcontext() if self.sharded and last else self.accelerator.no_sync(self.module):
            with self.accelerator.autocast():
                sums = self.module(part)
            # The mean over processes that FSDP takes is undone, so that every label token of the
            # global batch weighs the same, wherever and in whichever micro-batch it is.
            self.accelerator.backward(sums[0] * (processes / tokens))
        return torch.stack([value.detach().float() for value in sums])

    def _clip(self) -> float:
        """Scale the gradients of the global batch down to ``max_grad_norm``; the norm before."""
        limit = self.pace.max_grad_norm if self.pace.max_grad_norm > 0 else math.inf
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), limit)
        return float(whole_tensor(norm))

    def _check_finite(self, norm: float, totals: list[float], window: list[Batch]) -> None:
        """Raise DivergedError, naming samples, if this step would spoil the weights."""
        bad = [not math.isfinite(value) for value in totals]
        if not self._anyone(any(bad) or not math.isfinite(norm)):
            return
        named = [i for batch, is_bad in zip(window, bad, strict=True) if is_bad for i in batch.ids]
        ids: list[str] = gather_object(named)
        what = "loss" if ids else "gradient"
        if not ids:
            ids = gather_object([i for batch in window for i in batch.ids])
        raise DivergedError(not_finite(self.step + 1, what, ids))

    def _log(self) -> None:
        row: dict[str, Any] = {"kind": "train", "step": self.step, "epoch": self.stream.epoch}
        row |= self.tally.row() | {f"lr_{part}": rate for part, rate in self.rates.items()}
        self.tally = Tally()
        self.report.training(row, self.model)

    def _checkup(self, evaluate: Callable[[], Checkup]) -> Checkup:
        checkup = evaluate()
        training_mode(self.model, self.learns)
        self.report.evaluated(self.step, checkup)
        return checkup

    def _due(self, every: int, last: bool = False) -> bool:
        return every > 0 and (last or self.step % every == 0)

    def _anyone(self, flag: bool) -> bool:
        """Whether the flag is set in any process; the same answer in all of them."""
        return self._total([float(flag)])[0] > 0

    def _total(self, values: list[float]) -> list[float]:
        return total(values, self.accelerator)

    def state_dict(self) -> Mapping[str, Any]:
        """Where the run is, weights, data and random states aside; plain values and tensors."""
        return {
            "step": self.step,
            "learns": sorted(self.learns),
            "optimizer": self.optimizer.state_dict(),
            "tally": self.tally.state_dict(),
            "memory_limit": self.guard.limit,
            "monitor": self.report.monitor.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where ``state_dict`` was taken; the optimizer is restored apart."""
        self.step = state["step"]
        self.tally = Tally.from_state(state["tally"])
        self.guard.limit = state.get("memory_limit", math.inf)
        self.report.monitor.load_state_dict(state["monitor"])
