"""What the stages share: the log, WER, the learning rate over a course, the file to go on from."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch

from tiny_audio.evaluate.wer import score


class Log:
    """Figures of one stage as JSON lines, also printed."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a", buffering=1)
        self.began = time.monotonic()

    def __call__(self, **figures: Any) -> None:
        """Write one line with the seconds since the stage began."""
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
        line = json.dumps({"t": round(time.monotonic() - self.began, 1), **rounded})
        self.file.write(line + "\n")
        print(line, flush=True)


def word_error_rate(references: list[str], hypotheses: list[str]) -> float:
    """Corpus WER under the house's rule "whisper-en", in percent."""
    return 100.0 * (score(references, hypotheses, "whisper-en").wer or 0.0)


def rate(done: float, warm: float = 0.02, hold: float = 0.35) -> float:
    """Learning-rate factor: linear warm-up, constant, then cosine to zero."""
    if done < warm:
        return max(done / warm, 0.01)
    return 1.0 if done < hold else 0.5 + 0.5 * math.cos(math.pi * (done - hold) / (1 - hold))


class Saved:
    """A file to go on from: the states of `parts` and where training was, whole at any moment."""

    def __init__(self, path: Path, every: float, **parts: Any) -> None:
        self.path, self.every, self.parts = path, every, parts
        self.at = time.monotonic()

    def load(self, place: Any) -> Any:
        """Load the parts and return where training was; `place` where nothing was saved."""
        if not self.path.exists():
            return place
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return state["place"]

    def save(self, place: Any, now: bool = False) -> None:
        """Save, unless it is less than `every` seconds since the last time."""
        if now or time.monotonic() - self.at > self.every:
            self.at = time.monotonic()
            state = {name: part.state_dict() for name, part in self.parts.items()}
            torch.save({**state, "place": place}, f"{self.path}.part")
            os.replace(f"{self.path}.part", self.path)
