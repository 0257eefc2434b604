"""The checkpoints of a run: which there are, which is best and last, and which are deleted.

    runs/x/checkpoints/step-00000500/    a whole checkpoint, as model/checkpoint.py writes it
    runs/x/checkpoints/index.json        {"best": "step-…", "last": "step-…", "checkpoints": […]}

The index is written after the checkpoint it names and before any old one is deleted, so a kill at
any moment leaves an index whose folders exist.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tiny_audio.errors import CheckpointError

INDEX = "index.json"


@dataclass(frozen=True)
class Entry:
    """One saved checkpoint and how it scored, where it was evaluated at that very step."""

    name: str
    step: int
    wer: float | None = None
    loss: float | None = None


def quality(metric: str, wer: float | None, loss: float | None) -> tuple[float, float]:
    """What evaluations are ordered by, lower is better: the metric, then the other one.

    While every hypothesis is wrong the WER is 100 % again and again, and the loss decides.
    """
    first = math.inf if wer is None else wer
    second = math.inf if loss is None else loss
    return (first, second) if metric == "wer" else (second, first)


class CheckpointStore:
    """Saves, finds and thins out the checkpoints under one folder.

    Args:
        folder: ``checkpoints`` of a run.
        keep: newest checkpoints that are kept; best and last stay in any case.
        metric: ``wer`` or ``loss``, by which the best is found, see ``quality``.
    """

    def __init__(self, folder: Path, *, keep: int, metric: str) -> None:
        self.folder = folder
        self.keep = max(1, keep)
        self.metric = metric
        self.entries = _read_index(folder)

    @property
    def last(self) -> Path | None:
        """The newest checkpoint."""
        return self.folder / self.entries[-1].name if self.entries else None

    @property
    def best(self) -> Path | None:
        """The checkpoint with the lowest metric; the newest where none was evaluated."""
        entry = self._best()
        return self.folder / entry.name if entry else None

    def save(
        self, step: int, write: Callable[[Path], None], *, wer: float | None, loss: float | None
    ) -> Path:
        """Write a checkpoint, list it, then delete those that are no longer kept.

        Args:
            step: updates done.
            write: writes a whole checkpoint to the folder it is given, or nothing.
            wer: of an evaluation at this step, None where there was none.
            loss: likewise.

        Raises:
            CheckpointError: the disk is full or refuses; what was there before is untouched.
        """
        target = self.folder / f"step-{step:08d}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write(target)
            kept = [entry for entry in self.entries if entry.name != target.name]
            entry = Entry(target.name, step, wer, loss)
            self.entries = sorted([*kept, entry], key=lambda e: e.step)
            self._write_index()
        except OSError as error:
            raise CheckpointError(self._refusal(target, error)) from error
        self._thin_out()
        return target

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints of later steps: they will come again."""
        later = [entry for entry in self.entries if entry.step > step]
        self.entries = [entry for entry in self.entries if entry.step <= step]
        if later:
            self._write_index()
            self._delete(later)

    def _best(self) -> Entry | None:
        scored = [entry for entry in self.entries if entry.loss is not None]
        if not scored:
            return self.entries[-1] if self.entries else None
        return min(scored, key=lambda e: (*quality(self.metric, e.wer, e.loss), e.step))

    def _thin_out(self) -> None:
        best = self._best()
        gone = [entry for entry in self.entries[: -self.keep] if entry != best]
        self.entries = [entry for entry in self.entries if entry not in gone]
        if gone:
            self._write_index()
            self._delete(gone)

    def _delete(self, entries: list[Entry]) -> None:
        for entry in entries:
            shutil.rmtree(self.folder / entry.name, ignore_errors=True)

    def _write_index(self) -> None:
        best = self._best()
        content: dict[str, Any] = {
            "best": best.name if best else None,
            "last": self.entries[-1].name if self.entries else None,
            "checkpoints": [asdict(entry) for entry in self.entries],
        }
        temporary = self.folder / f".{INDEX}.tmp"
        with temporary.open("w") as stream:
            json.dump(content, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self.folder / INDEX)

    def _refusal(self, target: Path, error: OSError) -> str:
        free = shutil.disk_usage(_existing(target)).free / 1e6
        before = f"{self.last} is whole" if self.last else "there is none before it"
        return (
            f"{target}: the checkpoint could not be saved ({error.strerror or error}; {free:.0f} "
            f"MB free); {before}. Free some space, then resume from it"
        )


def find_checkpoint(where: str, output_dir: Path) -> Path:
    """Folder that ``training.resume_from_checkpoint`` means.

    Args:
        where: ``last``, a run's folder (its last checkpoint), or a checkpoint's folder.
        output_dir: of this run; ``last`` is looked up there.

    Raises:
        CheckpointError: nothing was saved there.
    """
    run = output_dir if where == "last" else Path(where)
    folder = run / "checkpoints"
    if not folder.is_dir():
        if where != "last" and run.is_dir():
            return run
        raise CheckpointError(
            f"training.resume_from_checkpoint={where}: no checkpoint in {run}; with `last`, "
            "output_dir must be the folder of the run that is to go on"
        )
    entries = _read_index(folder)
    if not entries:
        raise CheckpointError(f"training.resume_from_checkpoint={where}: {folder} holds none yet")
    return folder / entries[-1].name


def _read_index(folder: Path) -> list[Entry]:
    """Entries whose folder exists, oldest first; without an index, what the folder's names say."""
    try:
        rows = json.loads((folder / INDEX).read_text())["checkpoints"]
        entries = [Entry(**row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        names = sorted(path.name for path in folder.glob("step-*"))
        entries = [Entry(name, int(name[5:])) for name in names if name[5:].isdecimal()]
    return [entry for entry in entries if (folder / entry.name).is_dir()]


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
