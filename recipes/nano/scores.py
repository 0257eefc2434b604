"""What the shipped recogniser scores: synthetic speech, real speech kept apart, other recordings.

    python -m recipes.nano.scores [--data DIR] [--model nano] [--work runs/nano-scores]

The sets: 300 sentences of the synthetic test split, the tenth of the real recordings that the
recipe never trains on, and the clips of speech_test, on which nothing may be tuned. And the decoder
alone: stretched, mixed and noisy tokens of 3,000 held-out phrases, spelt correctly or partly not.
The encoder's own figures need its CTC head, which is thrown away: they are in the encoder's log.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from recipes.nano.decoder import check
from recipes.nano.recogniser import real
from recipes.nano.text import Vocabulary, corpus, cut_books
from recipes.nano.turns import Spellings, Turns
from recipes.runs import machine, markdown
from tiny_audio.config import EvaluationConfig
from tiny_audio.data.records import Utterance
from tiny_audio.data.rejects import Reject
from tiny_audio.data.sources import open_set
from tiny_audio.data.synthetic import synthetic_utterances
from tiny_audio.evaluate.run import evaluate
from tiny_audio.evaluate.sets import read_samples
from tiny_audio.evaluate.tables import percent
from tiny_audio.model.build import ASSETS
from tiny_audio.model.checkpoint import resolve_model
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.scoring import get_rule

SENTENCES = 300
SEED = 4_242  # of the sentences; neither training nor the quickstart uses it
COLUMNS = ("set", "clips", "words", "WER", "S", "D", "I", "RTFx", "failed")


def synthetic() -> list[Utterance]:
    """Unseen voices and sentences."""
    return list(synthetic_utterances("test", SEED, count=SENTENCES))


def manifest(path: Path, seconds: float) -> list[Utterance | Reject]:
    """A set on disk, in memory."""
    samples = read_samples(open_set(str(path)), limit=None, num_workers=0, ahead_seconds=seconds)
    return [item for item, _ in samples]


def decoder_alone(model: SpeechModel, work: Path, data: Path) -> str:
    """A line with the decoder's error rates on noisy turns of held-out text."""
    if not (work / "phrases-test.txt").exists():
        cut_books(data / "text" / "books.txt.xz", work)
    vocabulary = Vocabulary(ASSETS / "nano" / "decoder")
    phrases = corpus(work, "test", 12_000)[:3000]
    turns = Turns(Spellings(phrases, vocabulary), vocabulary, 1, model.device)
    torch.manual_seed(0)
    found = check(model.causal_lm, turns, 400)
    model.eval()
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
    plan = EvaluationConfig()
    sets = {
        "synthetic": synthetic(),
        "real, held-out tenth": manifest(
            real(given.work, given.data, held_out=True), plan.batch_seconds
        ),
        "real, speech_test": manifest(
            given.data / "speech_test" / "manifest.jsonl", plan.batch_seconds
        ),
    }
    model = resolve_model(given.model, device="auto")
    rows = []
    for name, utterances in sets.items():
        result = evaluate(
            model,
            utterances,
            rule=get_rule(plan.scoring),
            batch_seconds=plan.batch_seconds,
            max_utterances=plan.max_utterances,
            generation=plan.generation,
        )
        words = result.score.words
        counts = (words.substitutions, words.deletions, words.insertions)
        rtfx = "-" if result.rtfx is None else f"{result.rtfx:.0f}"
        rows.append(
            (name, len(result.scored), words.reference, percent(words.rate), *counts, rtfx,
             result.failures.total())
        )  # fmt: skip
    lines = decoder_alone(model, given.work, given.data)
    text = f"{markdown(COLUMNS, rows)}\n\n{lines}\n{given.model}, rule {plan.scoring}; {machine()}"
    (given.work / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
