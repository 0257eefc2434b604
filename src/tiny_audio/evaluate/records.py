"""Results of an evaluation: one record an utterance, and every figure computed from them.

A results file (JSON lines of `Record`) is all that is needed to score again, under the same rule
or another, without the model: `rescore`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tiny_audio.errors import DataError
from tiny_audio.evaluate.wer import Counts, Score, UtteranceScore, score
from tiny_audio.text.scoring import ScoringRule


@dataclass(frozen=True)
class Record:
    """One utterance and what the model made of it, both texts raw.

    duration: seconds of audio. seconds: its share of the wall time. logprob: mean
    log-probability of a token, where known. finished: False where the text was cut off because it
    grew too long for the audio. error: why there is no hypothesis (a short key such as
    ``truncated``, counted), message: the same for people; such a record is a failure and is not
    scored. model, set: which of the models and test sets of the evaluation. tokens: how many were
    decoded. snr: estimated signal-to-noise ratio, dB. audio: path or URL of the recording, where
    it has one; offset: seconds into it where the utterance begins. extra: the source's other
    columns, JSON values.
    """

    id: str
    source: str
    reference: str
    hypothesis: str
    duration: float
    seconds: float
    logprob: float | None = None
    finished: bool = True
    speaker: str | None = None
    error: str | None = None
    message: str | None = None
    model: str | None = None
    set: str | None = None
    tokens: int | None = None
    snr: float | None = None
    audio: str | None = None
    offset: float | None = None
    extra: dict[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def failure(cls, id: str, source: str, reason: str, message: str | None = None) -> Record:
        """An utterance that never reached the model."""
        return cls(id, source, "", "", 0.0, 0.0, error=reason, message=message)

    def to_json(self) -> str:
        """One line of a results file."""
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass(frozen=True)
class Evaluation:
    """A scored set: records in input order, and the score of those that did not fail."""

    records: tuple[Record, ...]
    score: Score

    @property
    def scored(self) -> list[Record]:
        """Records with a hypothesis, in the order of `score.utterances`."""
        return [record for record in self.records if record.error is None]

    @property
    def failures(self) -> Counter[str]:
        """Utterances without a hypothesis, by reason."""
        return Counter(record.error for record in self.records if record.error is not None)

    @property
    def audio_seconds(self) -> float:
        """Seconds of audio that were recognised."""
        return sum(record.duration for record in self.scored)

    @property
    def wall_seconds(self) -> float:
        """Seconds that the run took, loading of audio included, of the model not."""
        return sum(record.seconds for record in self.records)

    @property
    def rtfx(self) -> float | None:
        """Seconds of audio recognised in one second; None where nothing was."""
        return self.audio_seconds / self.wall_seconds if self.wall_seconds else None

    def summary(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {
            **self.score.summary(),
            "audio_seconds": round(self.audio_seconds, 3),
            "wall_seconds": round(self.wall_seconds, 3),
            "rtfx": self.rtfx,
            "failed": self.failures.total(),
            "failures": dict(self.failures),
        }

    def by(self, key: Callable[[Record], str]) -> dict[str, Evaluation]:
        """The same evaluation in parts, for example by source or speaker; scores nothing anew."""
        scores = iter(self.score.utterances)
        parts: dict[str, tuple[list[Record], list[UtteranceScore]]] = {}
        for record in self.records:
            records, utterances = parts.setdefault(key(record), ([], []))
            records.append(record)
            if record.error is None:
                utterances.append(next(scores))
        return {
            name: assemble(records, utterances, self.score.rule)
            for name, (records, utterances) in parts.items()
        }


def assemble(
    records: Iterable[Record], utterances: Iterable[UtteranceScore], rule_id: str
) -> Evaluation:
    """An evaluation from records and the scores of those without error, in the same order."""
    utterances = tuple(utterances)
    words = sum((one.words for one in utterances), Counts())
    characters = sum((one.characters for one in utterances), Counts())
    return Evaluation(tuple(records), Score(rule_id, words, characters, utterances))


def rescore(path: Path, rule: ScoringRule) -> Evaluation:
    """Score a results file again, under any rule; raises DataError if it is not one."""
    records = tuple(read_records(path))
    scored = [record for record in records if record.error is None]
    references = [record.reference for record in scored]
    hypotheses = [record.hypothesis for record in scored]
    return Evaluation(records, score(references, hypotheses, rule))


def read_records(path: Path) -> Iterator[Record]:
    """The records of a results file; keys that Record has not are passed over."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                record = parse_record(line)
                if record is None:
                    raise DataError(
                        f"{path}, line {number}: not a record of an evaluation; give the "
                        "results.jsonl that `tiny-audio eval` wrote."
                    )
                yield record
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a results file: {error}") from None


def parse_record(line: str | bytes) -> Record | None:
    """One line of a results file; None if it is none."""
    try:
        values = json.loads(line)
        return Record(**{name: value for name, value in values.items() if name in _NAMES})
    except (ValueError, TypeError, AttributeError):
        return None


_NAMES = frozenset(one.name for one in fields(Record))
