"""The training loop, all of it: one process, several, and FSDP run the same lines.

Losses are sums over label tokens, divided by their number in the global batch: every label token
weighs the same, in whichever process, micro-batch or part of one it is.
"""

from __future__ import annotations

import hashlib
import math
import signal
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from tiny_audio.config import TrainingConfig
from tiny_audio.data.loader import TrainingStream
from tiny_audio.errors import TinyAudioError
from tiny_audio.model.batch import IGNORE, Batch
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.distributed import (
    held_signals,
    is_sharded,
    sum_gradients,
    total,
    whole_tensor,
)
from tiny_audio.train.evaluation import Evaluation
from tiny_audio.train.memory import MemoryGuard
from tiny_audio.train.metrics import Reporter
from tiny_audio.train.stages import lr_multiplier, training_mode


class DivergedError(TinyAudioError):
    """The loss or a gradient is not a finite number; the weights were not updated with it."""


class Prefetcher:
    """Training batches of this process, made while the device still computes on the present ones.

    Nothing runs beside the loop, so the order of data and random numbers is as without it. ``pin``
    puts batches into page-locked memory, from which CUDA copies without waiting.
    """

    def __init__(self, stream: TrainingStream, *, pin: bool = False) -> None:
        self._stream, self._pin = stream, pin
        self._source: Iterator[Batch] = iter(())
        self._ready: deque[tuple[Batch, dict[str, Any]]] = deque()  # with the state after each
        self._end: Exception | None = None  # StopIteration, or what went wrong
        self._state: dict[str, Any] | None = None

    @property
    def epoch(self) -> float:
        """Passes through the data."""
        return float(self.state_dict()["epoch"])

    def state_dict(self) -> dict[str, Any]:
        """The state of the stream after the last batch that was taken."""
        return self._stream.state_dict() if self._state is None else self._state

    def __iter__(self) -> Iterator[Batch]:
        self._source = iter(self._stream)
        while True:
            self.fetch(1)
            if not self._ready:
                break
            batch, self._state = self._ready.popleft()
            yield batch
        if self._end is not None and not isinstance(self._end, StopIteration):
            raise self._end

    def fetch(self, count: int) -> None:
        """Have so many batches ready, or all that are left.

        An error is kept until the batch that it stands for is taken: the present step ends first.
        """
        while len(self._ready) < count and self._end is None:
            try:
                batch = replace(next(self._source), epoch=self._stream.epoch)
                batch = batch.pin_memory() if self._pin else batch
                self._ready.append((batch, self._stream.state_dict()))
            except Exception as error:
                self._end = error


@dataclass
class MetricsAccumulator:
    """Sums over the steps since the last log line, over all processes."""

    steps: int = 0
    ce_sum: float = 0.0  # nats
    tokens: float = 0.0  # label tokens
    grad_norm_sum: float = 0.0  # before clipping
    grad_norm_max: float = 0.0
    audio_seconds: float = 0.0  # without padding
    seconds: float = 0.0  # of wall time in steps; evaluation and saving are not training time
    samples: str = ""  # hash of the ids of all samples, step by step
    ooms: int = 0  # times that memory ran out

    def row(self) -> dict[str, Any]:
        """Means since the last row, by the names of metrics.jsonl."""
        row = {
            "loss": self.ce_sum / self.tokens,
            "grad_norm": self.grad_norm_sum / self.steps,
            "grad_norm_max": self.grad_norm_max,
            "audio_seconds_per_second": self.audio_seconds / max(self.seconds, 1e-9),
            "seconds_per_step": self.seconds / self.steps,
            "samples": self.samples,
        }
        return row | ({"out_of_memory": self.ooms} if self.ooms else {})


@dataclass(eq=False)
class Trainer:
    """A run in progress: everything that changes from step to step."""

    settings: TrainingConfig
    accelerator: Accelerator
    model: SpeechModel  # under FSDP split, and the optimizer with it
    optimizer: torch.optim.Optimizer
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

    def run(self) -> int | None:
        """Train until ``max_steps``. Returns the signal that ended the run early, if one did."""
        settings = self.settings
        training_mode(self.model, settings.learns)
        self.sharded = is_sharded(self.model)
        batches = iter(self.stream)
        with held_signals(patient=self.accelerator.num_processes > 1) as received:
            if self.evaluate and self.evaluate_start and self.step == 0 and not self.report.rows:
                self._evaluate(self.evaluate)
            while self.step < settings.max_steps and not self.report.stale:
                going = self._update(batches)  # False: the data has ended
                self.step += going
                last = not going or self.step == settings.max_steps
                if self.metrics.steps and self._due(settings.logging_steps, last):
                    self._log()
                stopping = self._any_process(bool(received))
                evaluation = None
                if self.evaluate and not stopping and self._due(settings.eval_steps, last):
                    evaluation = self._evaluate(self.evaluate)
                best = evaluation is not None and self.report.is_best()
                due = self._due(settings.save_steps)
                if last or stopping or best or self.report.stale or due:
                    self.save(self, evaluation)
                if stopping:
                    return received[-1] if received else signal.SIGTERM  # another process's
                if not going:
                    break
        return None

    def _update(self, batches: Iterator[Batch]) -> bool:
        """Make one update out of the next micro-batches; False where there are none."""
        began, settings = time.perf_counter(), self.settings
        window = list(islice(batches, settings.gradient_accumulation_steps))
        labels = [batch.labels for batch in window if batch.labels is not None]
        count = float(sum(int((one[:, 1:] != IGNORE).sum()) for one in labels))
        tokens, ranks = total([count, float(bool(window))], self.accelerator)
        if ranks < self.accelerator.num_processes:
            return False
        for one in labels:
            self.report.count_labels(one)
        ooms_before = self.guard.times
        losses = self.guard.run(  # of each micro-batch: total, cross-entropy
            window,
            lambda part, last: self._backward(part, tokens, last),
            lambda: self.optimizer.zero_grad(set_to_none=True),
            recover=not self.sharded,
        )
        if self.step + 1 < settings.max_steps:  # while the device computes
            self.stream.fetch(settings.gradient_accumulation_steps)
        sum_gradients(self.model, self.accelerator)
        limit = settings.max_grad_norm if settings.max_grad_norm > 0 else math.inf
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        norm = float(whole_tensor(norm))  # before clipping
        values = torch.stack(losses).tolist()  # waits for the device, once in a step
        self._check_finite(norm, [whole for whole, _ in values], window)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * lr_multiplier(self.step, settings)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.metrics.tokens += tokens
        self._count(window, sum(ce for _, ce in values), norm, self.guard.times - ooms_before)
        self.metrics.seconds += time.perf_counter() - began
        return True

    def _backward(self, part: Batch, tokens: float, last: bool) -> Tensor:
        """Add the gradient of a part, over the label tokens of the global batch; its sums [2]."""
        processes = self.accelerator.num_processes if self.sharded else 1
        part = self.to_device(part)
        with nullcontext() if last else self.accelerator.no_sync(self.model):
            with self.accelerator.autocast():
                loss = self.model(part)
            # The mean over processes that FSDP takes is undone.
            self.accelerator.backward(loss.total * (processes / tokens))
        return torch.stack([loss.total.detach(), loss.ce_sum.detach()])

    def _check_finite(self, norm: float, totals: list[float], window: list[Batch]) -> None:
        """Raise DivergedError, naming samples, if this step would spoil the weights."""
        bad = [b for b, whole in zip(window, totals, strict=True) if not math.isfinite(whole)]
        if not self._any_process(bool(bad) or not math.isfinite(norm)):
            return
        guilty: list[str] = gather_object([i for batch in bad for i in batch.ids])
        what = "loss" if guilty else "gradient"
        ids = guilty or gather_object([i for batch in window for i in batch.ids])
        raise DivergedError(
            f"step {self.step + 1}: the {what} is not a finite number, in the batch of "
            f"{', '.join(ids)}. The weights were not touched and the last checkpoint is whole: "
            "look at these samples, or resume with a lower training.learning_rate or "
            "training.precision=fp32"
        )

    def _count(self, window: list[Batch], ce_sum: float, norm: float, ooms: int) -> None:
        """Add an update to the metrics; ``ce_sum`` and ``ooms`` are of this process."""
        audio = sum(batch.audio_seconds for batch in window)
        ids = "\n".join([str(self.accelerator.process_index), *(i for b in window for i in b.ids)])
        crc = zlib.crc32(ids.encode("utf-8", "surrogatepass"))
        mine = [ce_sum, audio, float(ooms), float(crc)]
        ce_sum, audio, oom_sum, samples = total(mine, self.accelerator)
        if oom_sum:
            now = "another process computes its batches in smaller parts"
            if self.guard.limit < math.inf:
                now = f"batches are computed in parts of at most {self.guard.limit:.0f} s"
            self.report.say(
                f"Out of memory in step {self.step + 1} ({oom_sum:.0f} times): {now} from here on; "
                "the updates stay the same. A smaller training.batch_seconds avoids the cut"
            )
        sums = self.metrics
        sums.steps += 1
        sums.ce_sum += ce_sum
        sums.grad_norm_sum += norm
        sums.grad_norm_max = max(sums.grad_norm_max, norm)
        sums.audio_seconds += audio
        sums.ooms += int(oom_sum)
        chain = f"{sums.samples} {samples}"
        sums.samples = hashlib.blake2b(chain.encode(), digest_size=6).hexdigest()

    def _log(self) -> None:
        row: dict[str, Any] = {"kind": "train", "step": self.step, "epoch": self.stream.epoch}
        rates = {f"lr_{group['part']}": group["lr"] for group in self.optimizer.param_groups}
        row |= self.metrics.row() | rates
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
        return total([float(flag)], self.accelerator)[0] > 0

    def state_dict(self) -> dict[str, Any]:
        """The state of the run, weights, data and random states aside; plain values and tensors."""
        return {
            "step": self.step,
            "learns": sorted(self.settings.learns),
            "optimizer": self.optimizer.state_dict(),
            "tally": asdict(self.metrics),
            "memory_limit": self.guard.limit,
            "monitor": self.report.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` described; the optimizer is restored apart."""
        self.step = state["step"]
        known = vars(self.metrics)
        sums = {name: value for name, value in state["tally"].items() if name in known}
        self.metrics = MetricsAccumulator(**sums)
        self.guard.limit = state.get("memory_limit", math.inf)
        self.report.load_state_dict(state["monitor"])
