"""What a recogniser scores on synthetic speech, real speech kept apart, and other recordings.

    python -m recipes.nano.scores [--data DIR] [--model nano] [--work runs/nano-scores]

The sets: 300 sentences of the synthetic test split, the tenth of the real recordings that the
recipe never trains on, and the clips of speech_test, on which nothing may be tuned. And the decoder
alone: stretched, mixed and noisy tokens of 3,000 held-out phrases, spelt correctly or partly not.
The encoder's own figures need its CTC head, which is thrown away: they are in the encoder's log.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import soundfile
import torch

from recipes.nano.decoder import check
from recipes.nano.pool import RATE
from recipes.nano.recogniser import real, write_manifest
from recipes.nano.text import Vocabulary, corpus, cut_books
from recipes.nano.turns import Turns
from tiny_audio.data.synthetic import synthetic_utterances
from tiny_audio.model.build import ASSETS
from tiny_audio.model.checkpoint import resolve_model

SENTENCES = 300
SEED = 4_242  # of the sentences; neither training nor the quickstart uses it


def synthetic(work: Path) -> Path:
    """Unseen voices and sentences, as a manifest."""
    rows: list[dict[str, object]] = []
    for one in synthetic_utterances("test", SEED, count=SENTENCES):
        name = f"{len(rows):03d}.flac"
        soundfile.write(work / name, one.waveform, RATE)
        rows.append({"audio_filepath": name, "text": one.text})
    return write_manifest(work / "synthetic.jsonl", rows)


def decoder_alone(name: str, work: Path, data: Path) -> str:
    """A line with the decoder's error rates on noisy turns of held-out text."""
    if not (work / "phrases-test.txt").exists():
        cut_books(data / "text" / "books.txt.xz", work)
    model = resolve_model(name, device="auto")
    vocabulary = Vocabulary(ASSETS / "nano" / "decoder")
    phrases = corpus(work, "test", 12_000)[:3000]
    turns = Turns(phrases, vocabulary, 1, model.device)
    torch.manual_seed(0)
    found = check(model.causal_lm, turns, 400)
    return (
        f"decoder alone: {found['wer_spelt']:.1f} % on noisy turns spelt correctly, "
        f"{found['wer_misspelt']:.1f} % partly misspelt"
    )


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="nano")
    parser.add_argument("--work", type=Path, default=Path("runs/nano-scores"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    sets = [
        synthetic(given.work),
        real(given.work, given.data, held_out=True),
        given.data / "speech_test" / "manifest.jsonl",
    ]
    command = [sys.executable, "-m", "tiny_audio", "eval", given.model]
    for path in sets:
        command += ["--data", str(path)]
    subprocess.run([*command, "--out", str(given.work / "eval")], check=True)
    print(decoder_alone(given.model, given.work, given.data))


if __name__ == "__main__":
    main()
