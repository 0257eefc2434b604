"""The metrics of a run: summed up, written to metrics.jsonl and loss.png, shown and tracked.

One JSON object a line. Training rows (``kind: train``), each the mean since the row before:
step, epoch, loss (nats per label token), aux_loss, grad_norm, grad_norm_max, lr_<part>,
audio_seconds_per_second, padding (share of computed audio that is none), memory_gb,
seconds_per_step, samples (hash of the ids learned from, in their order), guess_loss,
embedding_rms, weight_norm_<part>, projector_<statistic>.
Evaluation rows (``kind: eval``): step, eval_loss, wer, cer; step 0 is that of weights which were
trained before. At the end (``kind: data``): step, utterances_<source> and hours_<source> that were
learned from.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from omegaconf import OmegaConf
from torch import Tensor

from tiny_audio import logs
from tiny_audio.config import Config
from tiny_audio.data.mixture import Usage
from tiny_audio.errors import DataError
from tiny_audio.model.batch import IGNORE
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.checkpoints import quality
from tiny_audio.train.diagnosis import Cliff, Phase, Row, cliff_of, read_notes, start_of
from tiny_audio.train.display import Display, evaluation_figures, patience_ended
from tiny_audio.train.distributed import whole_tensor
from tiny_audio.train.evaluation import Evaluation
from tiny_audio.train.stages import part_of

METRICS = "metrics.jsonl"
PROJECT = "tiny-audio"  # under which trackers file the run
PICTURE = "loss.png"
QUIET_LOOKS = 20  # a note that was away for so many looks is said again
_PIECES = 3  # of 16 bits: float32, in which processes add up, holds the sum of 256 of them


def id_numbers(ids: Iterable[str], rank: int) -> list[float]:
    """A hash of one process's sample ids, in their order, as numbers to be added over processes."""
    text = "\n".join([str(rank), *ids])
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=2 * _PIECES)
    return [float(int.from_bytes(digest.digest()[2 * n :][:2], "big")) for n in range(_PIECES)]


@dataclass
class MetricsAccumulator:
    """Sums over the steps since the last log line, over all processes."""

    steps: int = 0
    ce_sum: float = 0.0  # nats
    aux_sum: float = 0.0  # of the projector's own loss, times tokens
    tokens: float = 0.0  # label tokens
    grad_norm_sum: float = 0.0  # before clipping
    grad_norm_max: float = 0.0
    audio_seconds: float = 0.0
    padded_seconds: float = 0.0  # computed audio, padding included
    seconds: float = 0.0  # of wall time in steps; evaluation and saving are not training time
    samples: str = ""  # hash of the ids of all samples, step by step
    ooms: int = 0  # times that memory ran out
    _since: float = field(default_factory=time.perf_counter, repr=False)

    def begin_step(self) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def end_step(self, *, grad_norm: float, samples: Sequence[float], **sums: float) -> None:
        """Add one update.

        Args:
            grad_norm: before clipping.
            samples: sum over the processes of ``id_numbers``.
            sums: over the global batch, by the names of the fields.
        """
        self.steps += 1
        for name, value in sums.items():
            setattr(self, name, getattr(self, name) + value)
        self.grad_norm_sum += grad_norm
        self.grad_norm_max = max(self.grad_norm_max, grad_norm)
        self.seconds += time.perf_counter() - self._since
        chain = f"{self.samples} {list(map(int, samples))}"
        self.samples = hashlib.blake2b(chain.encode(), digest_size=6).hexdigest()

    def row(self) -> dict[str, Any]:
        """Means since the last row, by the names of metrics.jsonl."""
        seconds = max(self.seconds, 1e-9)
        row = {
            "loss": self.ce_sum / self.tokens,
            "aux_loss": self.aux_sum / self.tokens,
            "grad_norm": self.grad_norm_sum / self.steps,
            "grad_norm_max": self.grad_norm_max,
            "audio_seconds_per_second": self.audio_seconds / seconds,
            "padding": 1 - self.audio_seconds / max(self.padded_seconds, 1e-9),
            "seconds_per_step": self.seconds / self.steps,
            "samples": self.samples,
        }
        return row | ({"out_of_memory": float(self.ooms)} if self.ooms else {})

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint between two log lines."""
        return {name: value for name, value in asdict(self).items() if name != "_since"}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MetricsAccumulator:
        """What ``state_dict`` described."""
        return cls(**{f.name: state[f.name] for f in fields(cls) if f.name in state})


@dataclass(eq=False)
class Reporter:
    """Keeps the rows of a run and passes them on to disk, display and tracker.

    Every process keeps them in memory; only the main one writes and shows.
    """

    accelerator: Accelerator
    folder: Path  # of the run
    display: Display
    metric: str  # wer or loss, by which evaluations are compared
    patience: int | None = None  # evaluations without a better one that end the run
    embedding_rms: float = 1.0  # of the decoder, which audio tokens are compared with
    from_scratch: bool = True  # False for a run that begins with trained weights
    rows: list[Row] = field(default_factory=list)
    _labels: Counter[int] = field(default_factory=Counter)  # how often each label token was seen
    _looks: int = 0
    _last_said: dict[str, int] = field(default_factory=dict)  # note -> look at which it last held

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

    def training(self, row: Mapping[str, Any], model: SpeechModel) -> None:
        """Complete a training row with statistics of the model, and pass it on."""
        row = {
            **row,
            "memory_gb": memory_gb(self.accelerator.device),
            "guess_loss": self.guess_loss,
            "embedding_rms": self.embedding_rms,
            **{f"weight_norm_{part}": norm for part, norm in weight_norms(model).items()},
            **{f"projector_{name}": value for name, value in model.projector.stats().items()},
        }
        self.record(row)
        if self.accelerator.is_main_process:
            self.display.training(row)
            self._show_notes()

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """Pass an evaluation on and draw the curves anew."""
        row = {
            "kind": "eval",
            "step": step,
            "eval_loss": evaluation.loss,
            "wer": evaluation.wer,
            "cer": evaluation.cer,
        }
        self.record(row)
        if self.accelerator.is_main_process:
            self.display.evaluated(row, evaluation.pairs)
            self._show_notes()
            self.draw()

    def usage(self, step: int, usage: Usage) -> list[str]:
        """Record what all processes learned from of each source; lines that tell it."""
        whole = Usage()
        for part in gather_object([usage]):
            whole.merge(part)
        self.record({"kind": "data", "step": step, **whole.row()})
        return whole.summary()

    def finish(self) -> None:
        """Draw the curves a last time, and say if the run ended early."""
        if self.accelerator.is_main_process:
            self.draw()
        if self.patience is not None and self.stale:
            self.say(patience_ended(self.metric, self.patience))

    def say(self, text: str) -> None:
        """Show a line of text."""
        if self.accelerator.is_main_process:
            self.display.say(text)

    def record(self, row: Mapping[str, Any]) -> None:
        """Append one row, in memory, on disk and to the tracker.

        Raises:
            DataError: the disk refuses.
        """
        self.rows.append(dict(row))
        self._write([row], mode="a")
        figures = {
            f"{row['kind']}/{name}": value
            for name, value in row.items()
            if isinstance(value, int | float) and name != "step"
        }
        self.accelerator.log(figures, step=row["step"])

    def draw(self) -> Path:
        """Draw loss.png anew and return its path."""
        cliff = cliff_of(self.rows, self.guess_loss) if self.from_scratch else Cliff(Phase.BEFORE)
        draw_curves(self.rows, cliff, self.folder / PICTURE)
        return self.folder / PICTURE

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
        figures = ", ".join(f"{key} {value}" for key, value in evaluation_figures(start))
        return f"{name or 'the start'} ({figures} at step 0)"

    def _since_best(self, evals: list[Row]) -> int:
        """Evaluations since the one that was better than all before it; 0 without any."""
        found = [quality(self.metric, row["wer"], row["eval_loss"]) for row in evals]
        return len(found) - 1 - found.index(min(found)) if found else 0

    def _show_notes(self) -> None:
        """Show the notes that hold now and were not said lately."""
        self._looks += 1
        notes = read_notes(self.rows, self.guess_loss, from_scratch=self.from_scratch)
        for key, text in notes.items():
            if self._looks - self._last_said.get(key, -QUIET_LOOKS) >= QUIET_LOOKS:
                self.display.say(text)
            self._last_said[key] = self._looks

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
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open(mode) as stream:
                stream.writelines(json.dumps(row) + "\n" for row in rows)
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror}); free some space") from (
                error
            )


def memory_gb(device: torch.device) -> float:
    """Most memory held so far: of the GPU where there is one, else of the process now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return float(psutil.Process().memory_info().rss) / 2**30


@torch.no_grad()
def weight_norms(model: SpeechModel) -> dict[str, float]:
    """Euclidean norm of the learning parameters of each part."""
    squares: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of(name)
            square = parameter.detach().float().square().sum()
            squares[part] = squares[part] + square if part in squares else square
    return {part: float(whole_tensor(total).sqrt()) for part, total in squares.items()}


def draw_curves(rows: Sequence[Row], cliff: Cliff, path: Path) -> None:
    """Draw training loss, evaluation loss and (on the right axis) WER over the steps.

    Args:
        rows: of metrics.jsonl.
        cliff: marked where it was passed.
        path: PNG that is written.
    """
    # Imported here, and without pyplot: no window system is touched, whatever MPLBACKEND says.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for kind, key, label, style in (
        ("train", "loss", "training loss", {"color": "tab:blue", "linewidth": 1.0}),
        ("eval", "eval_loss", "evaluation loss", {"color": "tab:orange", "marker": "o"}),
    ):
        points = [(r["step"], r[key]) for r in rows if r["kind"] == kind and r.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    axes.set(xlabel="step", ylabel="cross-entropy (nats per token)", ylim=(0, None))
    lines, labels = axes.get_legend_handles_labels()
    wer = [(r["step"], r["wer"]) for r in rows if r["kind"] == "eval" and r.get("wer") is not None]
    if wer:
        right = axes.twinx()
        # A model that babbles can pass 100 % many times over; the interesting part is below.
        right.set(ylabel="WER (%)", ylim=(0, 115))
        steps, rates = [step for step, _ in wer], [100 * min(rate, 1.1) for _, rate in wer]
        lines += right.plot(steps, rates, "s--", color="tab:green")
        labels.append("WER")
    if cliff.step is not None:
        lines.append(axes.axvline(cliff.step, color="grey", linestyle=":"))
        labels.append(f"{'cliff' if cliff.sudden else 'hears'}, step {cliff.step}")
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(lines, labels, loc="upper right")
    figure.savefig(path, format="png")


def start_tracker(accelerator: Accelerator, cfg: Config, folder: Path) -> None:
    """Open the tracker, if any. W&B keeps its files here where there is no key."""
    tracker = cfg.training.report_to
    if tracker is None:
        return
    if tracker == "wandb" and not logs.has_wandb_key():
        os.environ.setdefault("WANDB_MODE", "offline")
    settings = _flat(OmegaConf.to_container(OmegaConf.structured(cfg)))
    own = {"wandb": {"dir": str(folder), "name": folder.name}}
    try:
        accelerator.init_trackers(PROJECT, config=settings, init_kwargs=own)
    except Exception:
        accelerator.trackers.clear()  # half made: closing it would hide why it failed
        raise


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one table of plain values, which is what TensorBoard can show."""
    if not isinstance(values, dict):
        return {prefix: values if isinstance(values, bool | int | float | str) else str(values)}
    rows: dict[str, Any] = {}
    for key, value in values.items():
        rows |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return rows
