"""Evaluations and results files made of texts."""

import json
import random
from dataclasses import replace
from pathlib import Path

from tiny_audio.evaluate.results import Evaluation, Record
from tiny_audio.text.scoring import get_rule

VOCABULARY = "the cat sat on a mat and saw two dogs run to their house".split()


def evaluation(
    pairs: list[tuple[str, str]], rule: str = "basic", **columns: list[object]
) -> Evaluation:
    """Records with these texts; `columns` gives further fields, one value a record."""
    records = [
        replace(Record(str(i), "s", r, h, 3.0, 0.1), **{k: v[i] for k, v in columns.items()})
        for i, (r, h) in enumerate(pairs)
    ]
    return Evaluation.of(records, get_rule(rule))


def random_evaluation(count: int) -> Evaluation:
    """Utterances of all lengths, speakers, sources and sets, some without words."""
    rng = random.Random(0)
    found = []
    for i in range(count):
        words = rng.choices(VOCABULARY, k=rng.choice([0, 3, 8, 15, 30]))
        hypothesis = " ".join(word for word in words if rng.random() > 0.2)
        some = {"speaker": ["ann", "bob", None], "set": ["u", "v", "w"], "logprob": [None, -0.5]}
        found.append(
            Record(
                str(i), rng.choice("xy"), " ".join(words), hypothesis, rng.uniform(0.5, 40), 0.1,
                **{name: rng.choice(values) for name, values in some.items()},
            )
        )  # fmt: skip
    return Evaluation.of(found, get_rule("basic"))


def records(wrong: float, *, number: int = 60, seed: int = 0, speakers: int = 0) -> list[Record]:
    """Utterances of one set, with a share of the words replaced."""
    texts, errors = random.Random(1), random.Random(seed)
    found = []
    for i in range(number):
        words = texts.choices(VOCABULARY, k=texts.randrange(3, 14))
        hypothesis = " ".join("wrong" if errors.random() < wrong else word for word in words)
        speaker = f"s{i % speakers}" if speakers else None
        reference = " ".join(words)
        found.append(
            Record(f"u{i}", "set", reference, hypothesis, 1.0 + i % 8, 0.1, -0.1, speaker=speaker)
        )
    return found


def failure(name: str, error: str = "truncated", message: str | None = None) -> Record:
    return Record(name, "set", "", "", 0.0, 0.0, error=error, message=message)


def write(folder: Path, found: list[Record], rule: str | None = "basic/1") -> Path:
    """A folder with results, and a summary that names the rule."""
    folder.mkdir()
    lines = "".join(record.to_json() + "\n" for record in found)
    (folder / "results.jsonl").write_text(lines, encoding="utf-8")
    if rule is not None:
        (folder / "summary.json").write_text(json.dumps({"scoring": rule}))
    return folder
