"""Make the bundled pair from nothing: speech, tokenizer, encoder, decoder, recogniser.

    python -m recipes.nano.run --work DIR [--data ../shared/data] [--size gpu|cpu|smoke] [--install]

Every stage is skipped when its result is in the work folder, and the long ones resume from their
last save, so the same command carries on after a stop. Speech is made while the models train.
Figures go to DIR/logs/*.jsonl, the pair to DIR/encoder and DIR/decoder, the recogniser to
DIR/last/alone; --install puts all three into the package.
"""

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from recipes.nano import decoder, encoder
from recipes.nano.batches import Speech
from recipes.nano.speech import speak_in_background
from recipes.nano.text import Vocabulary, corpus, cut_books, train_tokenizer
from tiny_audio.model.build import ASSETS

TOKENS = 1024


@dataclass
class Plan:
    """How long and how large; the minutes are those of training proper."""

    encoder_minutes: float
    decoder_minutes: float
    steps: tuple[int, int]  # of the recogniser: with the decoder, alone
    espeak: tuple[int, float]  # workers, hours of speech each
    flite: tuple[int, float] = (1, 4.0)  # used where --flite is given
    encoder: dict[str, Any] = field(default_factory=dict)
    decoder: dict[str, Any] = field(default_factory=dict)
    recogniser: tuple[str, ...] = ()  # further settings
    hours: float = 1.5  # of book phrases for it, from each engine
    shard_s: float = 400.0
    pool_hours: float = 80.0


PLANS = {
    "gpu": Plan(
        9.85, 3.3, (5000, 800), espeak=(4, 22.0), flite=(3, 4.0),
        encoder={"seconds": 900, "real": 0.15, "peak": 1.2e-3, "least_hours": 2, "judged": 480,
                 "every": 1500},
        decoder={"rows": 384, "peak": 1.5e-3, "everyday": 120_000, "most": 280_000, "judged": 120,
                 "every": 3000},
        shard_s=300, pool_hours=150,
    ),
    "cpu": Plan(
        600, 240, (5000, 800), espeak=(1, 60.0),
        encoder={"seconds": 90, "real": 0.15, "peak": 1e-3, "least_hours": 2, "judged": 480,
                 "every": 1000},
        decoder={"rows": 40, "peak": 1.5e-3, "everyday": 120_000, "most": 280_000, "judged": 120,
                 "every": 1000},
    ),
    "smoke": Plan(
        0.4, 0.2, (4, 2), espeak=(1, 0.1), flite=(1, 0.02),
        encoder={"seconds": 30, "real": 0.15, "peak": 1e-3, "least_hours": 0.03, "judged": 12,
                 "every": 1000},
        decoder={"rows": 8, "peak": 1.5e-3, "everyday": 2000, "most": 4000, "judged": 4,
                 "every": 1000},
        hours=0.02,
        recogniser=("training.eval_utterances=4", "training.eval_steps=4", "data.num_workers=0"),
        shard_s=60, pool_hours=1,
    ),
}  # fmt: skip


def train_recogniser(plan: Plan, given: argparse.Namespace) -> None:
    """The last stage, in a process of its own; the pair is put into the package before it."""
    command = [sys.executable, "-m", "recipes.nano.recogniser", "--work", str(given.work / "last")]
    command += ["--data", str(given.data), "--hours", str(plan.hours)]
    command += ["--steps", str(plan.steps[0]), "--alone", str(plan.steps[1])]
    command += ["--flite"] if given.flite else []
    settings = list(plan.recogniser)
    for part in ("encoder", "decoder"):
        if given.install:
            shutil.copytree(given.work / part, ASSETS / "nano" / part, dirs_exist_ok=True)
        else:
            settings.append(f"model.{part}.id={(given.work / part).resolve()}")
    subprocess.run([*command, *([] if given.install else ["--keep"]), *settings], check=True)


def make(plan: Plan, given: argparse.Namespace, device: torch.device) -> None:
    """Run what is missing in the work folder."""
    work = given.work
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "phrases-test.txt").exists():
        cut_books(given.data / "text" / "books.txt.xz", work)
    voices = [("espeak", *plan.espeak)]
    voices += [("flite", *plan.flite)] if given.flite else []
    speakers = speak_in_background(work, voices, plan.shard_s)
    if not (work / "tokenizer" / "tokenizer.json").exists():
        train_tokenizer(corpus(work, "train", 60_000)[:250_000], TOKENS, work / "tokenizer")
    vocabulary = Vocabulary(work / "tokenizer")
    decoder.train(work, plan.decoder_minutes, **plan.decoder)
    speech = Speech(work, given.data, vocabulary, device, plan.pool_hours)
    encoder.train(speech, plan.encoder_minutes, **plan.encoder)
    for speaker in speakers:
        speaker.terminate()
    if not (work / "last" / "alone" / "checkpoints" / "index.json").exists():
        train_recogniser(plan, given)


def main() -> None:
    """Parse the command line and make the pair."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for everything made")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--size", choices=PLANS, default=None, help="default: gpu if there is one")
    parser.add_argument("--flite", action="store_true", help="speak with the flite command, too")
    parser.add_argument("--install", action="store_true", help="put the result into the package")
    given = parser.parse_args()
    cuda = torch.cuda.is_available()
    torch.backends.cuda.matmul.allow_tf32 = True
    plan = PLANS[given.size or ("gpu" if cuda else "cpu")]
    make(plan, given, torch.device("cuda" if cuda else "cpu"))


if __name__ == "__main__":
    main()
