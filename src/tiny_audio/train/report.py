"""Where the loop's figures go: the monitor's files, the display and the tracker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from tiny_audio.data.mixture import Usage
from tiny_audio.model.batch import IGNORE, Batch
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.checkpoints import quality
from tiny_audio.train.evaluation import Checkup
from tiny_audio.train.messages import patience_ended
from tiny_audio.train.monitor import Monitor
from tiny_audio.train.notes import Row, start_of
from tiny_audio.train.progress import LineDisplay, evaluation_figures
from tiny_audio.train.sharding import whole_tensor
from tiny_audio.train.stages import part_of


class Reporter:
    """Passes rows on. Every process keeps them in memory; only the main one writes and shows.

    Args:
        accelerator: knows the processes and the trackers.
        monitor: of the run.
        display: what the user sees.
        metric: ``wer`` or ``loss``, by which evaluations are compared.
        patience: evaluations in a row without a better one that end the run; None: none do.
        embedding_rms: of the decoder, which audio tokens are compared with.
        name: of one run among several that share a tracker.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        monitor: Monitor,
        display: LineDisplay,
        *,
        metric: str,
        patience: int | None = None,
        embedding_rms: float,
        name: str = "",
    ) -> None:
        self.accelerator = accelerator
        self.monitor = monitor
        self.display = display
        self.metric = metric
        self.patience = patience
        self.embedding_rms = embedding_rms
        self.prefix = f"{name}/" if name else ""

    def count_labels(self, batch: Batch) -> None:
        """Let the monitor know how often each label token occurs."""
        if batch.labels is not None:
            self.monitor.count_labels(batch.labels, IGNORE)

    def training(self, row: Mapping[str, Any], model: SpeechModel) -> None:
        """Complete a training row with what the model says of itself, and pass it on."""
        row = {
            **row,
            "memory_gb": memory_gb(self.accelerator.device),
            "guess_loss": self.monitor.guess_loss,
            "embedding_rms": self.embedding_rms,
            **{f"weight_norm_{part}": norm for part, norm in weight_norms(model).items()},
            **{f"projector_{name}": value for name, value in model.projector.stats().items()},
        }
        self._record(row)
        if self.accelerator.is_main_process:
            self.display.training(row)
            self._explain()

    def evaluated(self, step: int, checkup: Checkup) -> None:
        """Pass an evaluation on and draw the curves anew."""
        row = {
            "kind": "eval",
            "step": step,
            "eval_loss": checkup.loss,
            "wer": checkup.wer,
            "cer": checkup.cer,
        }
        self._record(row)
        if self.accelerator.is_main_process:
            self.display.evaluated(row, checkup.pairs)
            self._explain()
            self.monitor.draw()

    def unbeaten_start(self, name: str | None) -> str | None:
        """The weights that the run began with and their score, if no evaluation was better."""
        evals = self._evaluations()
        start = start_of(evals)
        if start is None or len(evals) == 1 or self._since_best(evals) < len(evals) - 1:
            return None
        figures = ", ".join(f"{key} {value}" for key, value in evaluation_figures(start))
        return f"{name or 'the start'} ({figures} at step 0)"

    def is_best(self) -> bool:
        """Whether the newest evaluation is better than all before it, that of the start aside."""
        return self._since_best([row for row in self._evaluations() if row["step"] > 0]) == 0

    @property
    def stale(self) -> bool:
        """Whether the run is to end early, as the newest evaluations were all no better.

        Counted from the rows, so that a resumed run counts on where it was.
        """
        return self.patience is not None and self._since_best(self._evaluations()) >= self.patience

    def _evaluations(self) -> list[Row]:
        return [row for row in self.monitor.rows if row["kind"] == "eval"]

    def _since_best(self, evals: list[Row]) -> int:
        """Evaluations since the one that was better than all before it; 0 without any."""
        found = [self._quality(row) for row in evals]
        return len(found) - 1 - found.index(min(found)) if found else 0

    def usage(self, step: int, usage: Usage) -> list[str]:
        """Record what all processes learned from of each source, and tell it in lines."""
        whole = Usage()
        for part in gather_object([usage]):
            whole.merge(part)
        self._record({"kind": "data", "step": step, **whole.row()})
        return whole.summary()

    def finish(self) -> None:
        """Draw the curves a last time, and say if the run ended early."""
        if self.accelerator.is_main_process:
            self.monitor.draw()
        if self.patience is not None and self.stale:
            self.say(patience_ended(self.metric, self.patience))

    def say(self, text: str) -> None:
        """Show a line of text."""
        if self.accelerator.is_main_process:
            self.display.say(text)

    def _quality(self, row: Row) -> tuple[float, float]:
        return quality(self.metric, row["wer"], row["eval_loss"])

    def _record(self, row: Mapping[str, Any]) -> None:
        self.monitor.record(row)
        figures = {
            f"{self.prefix}{row['kind']}/{name}": value
            for name, value in row.items()
            if isinstance(value, int | float) and name != "step"
        }
        self.accelerator.log(figures, step=row["step"])

    def _explain(self) -> None:
        for note in self.monitor.new_notes():
            self.display.say(note.text)


def memory_gb(device: torch.device) -> float:
    """Most memory held so far: of the GPU where there is one, else of the process now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return float(psutil.Process().memory_info().rss) / 2**30


@torch.no_grad()
def weight_norms(model: SpeechModel) -> dict[str, float]:
    """Euclidean norm of the learning parameters of each part."""
    squares: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of(name)
            square = parameter.detach().float().square().sum()
            squares[part] = squares[part] + square if part in squares else square
    return {part: float(whole_tensor(total).sqrt()) for part, total in squares.items()}
