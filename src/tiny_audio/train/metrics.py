"""The metrics of a run: written to metrics.jsonl and loss.png, shown and tracked.

One JSON object a line. Training rows (``kind: train``), each the mean since the row before:
step, epoch, loss (nats per label token), grad_norm, grad_norm_max, lr_<part>,
audio_seconds_per_second, seconds_per_step, memory_gb, out_of_memory (where it ran out), samples
(hash of the ids learned from, in their order), guess_loss, projector_<statistic>.
Evaluation rows (``kind: eval``): step (0: of weights trained before), eval_loss, wer, cer.
At the end (``kind: data``): step, utterances_<source> and hours_<source> learned from.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from omegaconf import OmegaConf
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text
from torch import Tensor

from tiny_audio import logs
from tiny_audio.config import Config
from tiny_audio.data.mixture import Usage
from tiny_audio.errors import DataError
from tiny_audio.model.batch import IGNORE
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.diagnosis import Row, find_cliff, read_notes, start_of
from tiny_audio.train.evaluation import Evaluation

METRICS = "metrics.jsonl"
PICTURE = "loss.png"
PROJECT = "tiny-audio"  # under which trackers file the run


class Bar(Progress):
    """A progress bar of steps with the newest figures under it."""

    def __init__(self, max_steps: int, *, live: bool, console: Console | None = None) -> None:
        console = console or Console()
        columns = TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=None)
        self.max_steps, self.figures = max_steps, dict[str, str]()
        hidden = not (live and console.is_terminal)
        super().__init__(*columns, console=console, expand=True, disable=hidden)
        self.task = self.add_task("", total=max_steps)

    def get_renderables(self) -> Iterable[RenderableType]:
        """See rich."""
        yield self.make_tasks_table(self.tasks)
        yield Text("   ".join(f"{name} {value}" for name, value in self.figures.items()))


class Reporter:
    """Keeps the rows of a run and passes them on to disk, console and tracker.

    Every process keeps them in memory; only the main one writes and shows: under a live bar, or
    as one line for each row where the bar is disabled.

    Evaluations are compared by ``metric``, wer or loss; ``patience`` of them without a better one
    end the run. One that begins with trained weights is not ``from_scratch``.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: Path,
        bar: Bar,
        *,
        metric: str,
        patience: int | None = None,
        from_scratch: bool = True,
    ) -> None:
        self.accelerator, self.folder, self.bar = accelerator, folder, bar
        self.metric, self.patience, self.from_scratch = metric, patience, from_scratch
        self.rows: list[Row] = []
        self._labels: Counter[int] = Counter()  # how often each label token was seen
        self._said: set[str] = set()  # notes

    @property
    def guess_loss(self) -> float:
        """Nats per token that guessing by frequency costs: the entropy of the labels so far."""
        total = self._labels.total()
        shares = (count / total for count in self._labels.values())
        return -sum(share * math.log(share) for share in shares)

    def count_labels(self, labels: Tensor) -> None:
        """Count how often each token occurs in the labels [B, T] of a batch."""
        ids, counts = labels[labels != IGNORE].unique(return_counts=True)
        self._labels.update(dict(zip(ids.tolist(), counts.tolist(), strict=True)))

    def training(self, row: Row, model: SpeechModel) -> None:
        """Complete a training row with statistics of the model, record and show it."""
        held = psutil.Process().memory_info().rss
        if self.accelerator.device.type == "cuda":  # the most so far
            held = torch.cuda.max_memory_allocated(self.accelerator.device)
        stats = {f"projector_{name}": value for name, value in model.projector.stats().items()}
        row = {**row, "memory_gb": held / 2**30, "guess_loss": self.guess_loss, **stats}
        self.record(row)
        figures = {
            "loss": f"{row['loss']:.4f}",
            "grad norm": f"{row['grad_norm']:.2f}",
            "lr": " ".join(f"{row[key]:.1e}" for key in row if key.startswith("lr_")),
            "audio s/s": f"{row['audio_seconds_per_second']:.0f}",
            "memory": f"{row['memory_gb']:.1f} GB",
            "left": duration((self.bar.max_steps - row["step"]) * row["seconds_per_step"]),
        }
        self._show(row["step"], figures, line=self.bar.disable)

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """Record and show an evaluation with a few references and hypotheses; draw the curves."""
        loss, wer, cer, pairs = evaluation
        row = {"kind": "eval", "step": step, "eval_loss": loss, "wer": wer, "cer": cer}
        self.record(row)
        self._show(step, _evaluation_figures(row), line=True)
        for reference, hypothesis in pairs:
            self.say(f"    reference:  {reference}\n    hypothesis: {hypothesis}")
        self.draw()

    def usage(self, step: int, usage: Usage) -> list[str]:
        """Record what all processes learned from of each source; lines that tell it."""
        whole = Usage()
        for part in gather_object([usage]):
            whole.merge(part)
        self.record({"kind": "data", "step": step, **whole.row()})
        return whole.summary()

    def say(self, text: str) -> None:
        """Print text that stays."""
        if self.accelerator.is_main_process:
            self.bar.console.print(Text(text), soft_wrap=True)

    def record(self, row: Row) -> None:
        """Append one row, in memory, on disk and to the tracker. DataError: the disk refuses."""
        self.rows.append(dict(row))
        self._write([row], mode="a" if len(self.rows) > 1 else "w")  # not after another run's
        figures = {
            f"{row['kind']}/{name}": value
            for name, value in row.items()
            if isinstance(value, int | float) and name != "step"
        }
        self.accelerator.log(figures, step=row["step"])

    def draw(self) -> None:
        """Draw loss.png anew."""
        if self.accelerator.is_main_process:
            hears = find_cliff(self.rows, self.guess_loss).step if self.from_scratch else None
            draw_curves(self.rows, hears, self.folder / PICTURE)

    @property
    def evaluations(self) -> list[Row]:
        """The rows of all evaluations."""
        return [row for row in self.rows if row["kind"] == "eval"]

    @property
    def stale(self) -> bool:
        """Whether the run is to end early, as the newest evaluations were all no better.

        Counted from the rows, so that a resumed run counts on where it was.
        """
        return self.patience is not None and self._since_best(self.evaluations) >= self.patience

    def is_best(self) -> bool:
        """Whether the newest evaluation is better than all before it, that of the start aside."""
        return self._since_best([row for row in self.evaluations if row["step"] > 0]) == 0

    def unbeaten_start(self, name: str | None) -> str | None:
        """The weights that the run began with and their score, if no evaluation was better."""
        evals = self.evaluations
        start = start_of(evals)
        if start is None or len(evals) == 1 or self._since_best(evals) < len(evals) - 1:
            return None
        figures = ", ".join(f"{key} {value}" for key, value in _evaluation_figures(start).items())
        return f"{name or 'the start'} ({figures} at step 0)"

    def _since_best(self, evals: list[Row]) -> int:
        """Evaluations since the one that was better than all before it; 0 without any."""
        names = ("wer", "eval_loss") if self.metric == "wer" else ("eval_loss", "wer")
        found = [[math.inf if row[n] is None else row[n] for n in names] for row in evals]
        return len(found) - 1 - found.index(min(found)) if found else 0

    def _show(self, step: int, figures: Mapping[str, str], *, line: bool) -> None:
        """Show figures, and the notes that hold now, each once in a run."""
        self.bar.figures |= figures
        self.bar.update(self.bar.task, completed=step)
        if line:
            shown = (f"{name} {value}" for name, value in figures.items())
            self.say("  ".join([f"step {step:>6}/{self.bar.max_steps}", *shown]))
        notes = read_notes(self.rows, self.guess_loss, from_scratch=self.from_scratch)
        for key, text in notes.items():
            if key not in self._said:
                self.say(text)
        self._said |= notes.keys()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on with the same curves; plain values."""
        return {"rows": list(self.rows), "labels": dict(self._labels)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back; rows on disk from after that moment are gone, they will come again."""
        self.rows = list(state["rows"])
        self.from_scratch = self.from_scratch and start_of(self.rows) is None
        self._labels = Counter(state["labels"])
        self._write(self.rows, mode="w")

    def _write(self, rows: Iterable[Row], mode: str) -> None:
        if not self.accelerator.is_main_process:
            return
        path = self.folder / METRICS
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open(mode) as stream:
                stream.writelines(json.dumps(row) + "\n" for row in rows)
        except OSError as error:
            reason = f"cannot be written ({error.strerror}); free some space"
            raise DataError(f"{path}: {reason}") from error


def _evaluation_figures(row: Row) -> dict[str, str]:
    wer = "none" if row["wer"] is None else f"{row['wer']:.1%}"
    return {"eval loss": f"{row['eval_loss']:.4f}", "WER": wer}


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def draw_curves(rows: Sequence[Row], hears: int | None, path: Path) -> None:
    """Write a PNG of the losses and (on the right axis) WER over the steps. From step ``hears`` on
    the cliff is passed."""
    # Without pyplot: no window system is touched, whatever MPLBACKEND says.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel="step", ylabel="cross-entropy (nats per token)", ylim=(0, None))
    axes.grid(alpha=0.3)
    right = axes.twinx()
    # A model that babbles can pass 100 % many times over; the interesting part is below.
    right.set(ylabel="WER (%)", ylim=(0, 115))
    for side, key, scale, style, label in (
        (axes, "loss", 1, "C0-", "training loss"),
        (axes, "eval_loss", 1, "C1o-", "evaluation loss"),
        (right, "wer", 100, "C2s-", "WER"),
    ):
        points = [(row["step"], scale * row[key]) for row in rows if row.get(key) is not None]
        if points:
            side.plot(*zip(*points, strict=True), style, label=label)
    if hears is not None:
        axes.axvline(hears, color="grey", linestyle=":", label=f"past the cliff, step {hears}")
    if rows:
        figure.legend(loc="outside upper right", ncols=4)
    figure.savefig(path, format="png")


def start_tracker(accelerator: Accelerator, cfg: Config, folder: Path) -> None:
    """Open the tracker, if any. W&B keeps its files here where there is no key."""
    tracker = cfg.training.report_to
    if tracker is None:
        return
    if tracker == "wandb" and not logs.has_wandb_key():
        os.environ.setdefault("WANDB_MODE", "offline")
    settings: Any = OmegaConf.to_container(OmegaConf.structured(cfg))
    own = {"wandb": {"dir": str(folder), "name": folder.name}}
    # TensorBoard can show plain values only; config.yaml lies beside its files.
    config = settings if tracker == "wandb" else None
    try:
        accelerator.init_trackers(PROJECT, config=config, init_kwargs=own)
    except Exception:
        accelerator.trackers.clear()  # half made: closing it would hide why it failed
        raise
