"""What smaller weights cost: word error rate, memory and speed, alone and in a batch.

    python -m recipes.quantised [--model nano] [--data ../shared/data] [--sentences 200]

The sets: sentences of the synthetic test split, and the clips of speech_test. Speed is in batches,
by the process's own clock. "as alone": how many clips have the same text in a batch and alone.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from bench.common import machine

import tiny_audio
from recipes.compare import markdown
from tiny_audio.config import EvaluationConfig
from tiny_audio.data.records import Utterance
from tiny_audio.data.sources import open_set
from tiny_audio.data.synthetic import synthetic_utterances
from tiny_audio.evaluate.sets import read_samples
from tiny_audio.evaluate.tables import percent
from tiny_audio.evaluate.wer import score
from tiny_audio.infer.transcribe import Recogniser
from tiny_audio.model.quantise import weight_bytes

SEED = 4_243  # of the sentences
COLUMNS = ("dtype", "weights", "MB", "WER synthetic", "WER speech_test", "audio s/s", "as alone")


def sets(data: Path, sentences: int) -> list[list[Utterance]]:
    """Both test sets, in memory."""
    manifest = str(data / "speech_test" / "manifest.jsonl")
    real = read_samples(open_set(manifest), limit=None, num_workers=0, ahead_seconds=60.0)
    return [
        list(synthetic_utterances("test", SEED, count=sentences)),
        [one.item for one in real if isinstance(one.item, Utterance)],
    ]


def row(model: str, dtype: str, kind: str | None, heard: list[list[Utterance]]) -> tuple[str, ...]:
    """One line of the table."""
    recogniser: Recogniser = tiny_audio.load(model, device="cpu", dtype=dtype, quantise=kind)
    rates, same, clips, seconds, work = [], 0, 0, 0.0, 0.0
    for members in heard:
        waveforms = [one.waveform for one in members]
        began = time.process_time()
        together = [t.text for t in recogniser.transcribe(waveforms)]
        work += time.process_time() - began
        seconds += sum(one.seconds for one in members)
        references = [one.text for one in members]
        rates.append(score(references, together, EvaluationConfig.scoring).words.rate)
        alone = [recogniser.transcribe(waveform).text for waveform in waveforms]
        same += sum(a == b for a, b in zip(alone, together, strict=True))
        clips += len(members)
    size = f"{weight_bytes(recogniser.model) / 1e6:.1f}"
    found = [percent(rate) for rate in rates]
    return dtype, kind or "as they are", size, *found, f"{seconds / work:.0f}", f"{same} of {clips}"


def main() -> None:
    """Parse, measure, print."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sentences", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    heard = sets(given.data, given.sentences)
    rows = [
        row(given.model, dtype, kind, heard)
        for dtype in ("float32", "bfloat16")
        for kind in (None, "int8")
    ]
    words = " and ".join(str(sum(len(u.text.split()) for u in members)) for members in heard)
    print(
        f"{markdown(COLUMNS, rows)}\n\n{given.model}, {words} words, {machine(torch.device('cpu'))}"
    )


if __name__ == "__main__":
    main()
