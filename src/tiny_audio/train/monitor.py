"""Keeps what happens in a run: metrics.jsonl, loss.png and the notes for the learner.

One JSON object a line. Training rows (``kind: train``), each the mean since the row before:
step, epoch, loss (nats per label token), aux_loss, grad_norm, grad_norm_max, lr_<part>,
audio_seconds_per_second, padding (share of computed audio that is none), memory_gb,
seconds_per_step, samples (hash of the ids learned from, in their order), guess_loss,
embedding_rms, weight_norm_<part>, projector_<statistic>.
Evaluation rows (``kind: eval``): step, eval_loss, wer, cer; step 0 is that of weights which were
trained before. At the end (``kind: data``): step, and
utterances_<source> and hours_<source> that were learned from.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tiny_audio.errors import DataError
from tiny_audio.train.cliff import Cliff, Phase
from tiny_audio.train.notes import Note, Row, cliff_of, read_notes, start_of
from tiny_audio.train.plot import draw_curves

METRICS = "metrics.jsonl"
PICTURE = "loss.png"
QUIET_LOOKS = 20  # a note that was away for so many looks is said again


class Monitor:
    """The metrics of one run, on disk and in memory.

    Args:
        folder: of the run.
        writes: False in all processes of a run but one.
        from_scratch: False for a run that begins with trained weights, see ``read_notes``.
    """

    def __init__(self, folder: Path, *, writes: bool = True, from_scratch: bool = True) -> None:
        self.folder = folder
        self.writes = writes
        self.from_scratch = from_scratch
        self.rows: list[Row] = []
        self._labels: Counter[int] = Counter()  # how often each label token was seen
        self._looks = 0
        self._last_said: dict[str, int] = {}  # note key -> look at which it last held

    @property
    def guess_loss(self) -> float:
        """Nats per token that guessing by frequency costs: the entropy of the labels so far."""
        total = self._labels.total()
        shares = (count / total for count in self._labels.values())
        return -sum(share * math.log(share) for share in shares)

    def count_labels(self, labels: Tensor, ignore: int) -> None:
        """Take the labels [B, T] of a batch into account, except positions marked ``ignore``."""
        ids, counts = labels[labels != ignore].unique(return_counts=True)
        self._labels.update(dict(zip(ids.tolist(), counts.tolist(), strict=True)))

    def record(self, row: Mapping[str, Any]) -> None:
        """Append one row, in memory and on disk. Raises DataError where the disk refuses."""
        self.rows.append(dict(row))
        self._write([row], mode="a")

    def new_notes(self) -> list[Note]:
        """Notes that hold now and were not said lately."""
        self._looks += 1
        fresh = []
        for note in read_notes(self.rows, self.guess_loss, from_scratch=self.from_scratch):
            if self._looks - self._last_said.get(note.key, -QUIET_LOOKS) >= QUIET_LOOKS:
                fresh.append(note)
            self._last_said[note.key] = self._looks
        return fresh

    def draw(self) -> Path:
        """Draw loss.png anew and return its path."""
        path = self.folder / PICTURE
        cliff = cliff_of(self.rows, self.guess_loss) if self.from_scratch else Cliff(Phase.BEFORE)
        draw_curves(self.rows, cliff, path)
        return path

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
        if not self.writes:
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
