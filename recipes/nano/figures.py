"""Figures of a stage: its log, WER, and the learning rate over its course."""

import json
import math
import time
from pathlib import Path
from typing import Any

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
