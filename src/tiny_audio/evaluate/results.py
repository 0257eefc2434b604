"""Results files: one record an utterance, from which every figure is computed, by any rule."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from tiny_audio.config import EvaluationConfig
from tiny_audio.errors import DataError
from tiny_audio.evaluate.wer import Score, UtteranceScore, score_utterance
from tiny_audio.text.scoring import ScoringRule, get_rule, require_same_rule

K = TypeVar("K")
RESULTS, SUMMARY = "results.jsonl", "summary.json"


@dataclass(frozen=True)
class Record:
    """One utterance and what the model made of it, both texts raw.

    duration: seconds of audio. seconds: its share of the wall time. logprob: mean log-probability
    of a token, where known. finished: False where the text was cut off at the limit of tokens.
    error: why there is no hypothesis (a short key such as ``truncated``, counted), message: the
    same for people; such a record is a failure and is not scored. model, set: which of the
    evaluation. tokens: how many were decoded. audio: path or URL of the recording; offset:
    seconds into it where the utterance begins. extra: the source's other columns, JSON values.
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
    audio: str | None = None
    offset: float | None = None
    extra: dict[str, Any] = field(default_factory=dict, hash=False)

    def to_json(self) -> str:
        """One line of a results file."""
        return json.dumps(asdict(self), ensure_ascii=False)


_FIELDS = frozenset(one.name for one in fields(Record))


@dataclass(frozen=True)
class Evaluation:
    """Records in input order and their scores under a rule; a failure has none."""

    rule: str
    records: tuple[Record, ...]
    scores: tuple[UtteranceScore | None, ...]

    @classmethod
    def of(cls, records: Iterable[Record], rule: ScoringRule) -> Evaluation:
        """Score every record that has a hypothesis."""
        records = tuple(records)
        scores = (
            None if record.error else score_utterance(record.reference, record.hypothesis, rule)
            for record in records
        )
        return cls(rule.id, records, tuple(scores))

    def pairs(self) -> list[tuple[Record, UtteranceScore]]:
        """The records that were scored, with their scores."""
        both = zip(self.records, self.scores, strict=True)
        return [(record, one) for record, one in both if one is not None]

    @property
    def scored(self) -> list[Record]:
        """Records with a hypothesis, in the order of `score.utterances`."""
        return [record for record, _ in self.pairs()]

    @cached_property
    def score(self) -> Score:
        """The sum over the records that were scored."""
        return Score.of(self.rule, (one for _, one in self.pairs()))

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

    def positions(self, key: Callable[[Record], K]) -> dict[K, list[int]]:
        """Where the records of each part are, in parts for example by source or speaker."""
        parts: dict[K, list[int]] = defaultdict(list)
        for position, record in enumerate(self.records):
            parts[key(record)].append(position)
        return parts

    def by(self, key: Callable[[Record], str]) -> dict[str, Evaluation]:
        """The same evaluation in these parts; scores nothing anew."""
        return {name: self.select(found) for name, found in self.positions(key).items()}

    def select(self, positions: Sequence[int]) -> Evaluation:
        """The records at some positions, in that order."""
        records = tuple(self.records[i] for i in positions)
        return Evaluation(self.rule, records, tuple(self.scores[i] for i in positions))


def set_name(record: Record) -> str:
    """The test set of a record, or its source where no set is named."""
    return record.set or record.source


def read_records(path: Path) -> Iterator[Record]:
    """The records of a results file; DataError names the line that is none."""
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
    """One line of a results file, None if it is none; keys that Record has not are passed over."""
    try:
        values = json.loads(line)
        return Record(**{name: value for name, value in values.items() if name in _FIELDS})
    except (ValueError, TypeError, AttributeError):
        return None


def results_file(path: Path) -> Path:
    """A results file, or the one in a folder."""
    return path / RESULTS if path.is_dir() else path


def load_systems(paths: Sequence[Path], scoring: str | None) -> dict[str, Evaluation]:
    """Score results files, or those in folders, under one rule: model's name -> its evaluation.

    Without `scoring`, by the rule they were made with, ConfigError where these are several. Raises
    DataError for a file that cannot be read or has nothing scored.
    """
    files = [results_file(path) for path in paths]
    rule = get_rule(scoring or _common_rule(files))
    found: list[tuple[str, str, Evaluation]] = []
    for file in files:
        evaluation = Evaluation.of(read_records(file), rule)
        if not evaluation.scored:
            raise DataError(f"{file}: holds no utterance that was scored.")
        folder = file.parent.resolve().name if file.name == RESULTS else file.stem
        for model, part in evaluation.by(lambda record: record.model or "").items():
            name = (Path(model).name if Path(model).exists() else model) or folder
            found.append((name, folder, part))
    names = [name for name, _, _ in found]
    full = [f"{folder}/{name}" if names.count(name) > 1 else name for name, folder, _ in found]
    return dict(zip(distinct(full), (part for _, _, part in found), strict=True))


def distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered from the second on where they repeat."""
    repeats = [names[:i].count(name) for i, name in enumerate(names)]
    return [f"{name}-{n + 1}" if n else name for name, n in zip(names, repeats, strict=True)]


def _common_rule(files: Sequence[Path]) -> str:
    """The rule that all summaries beside the files agree on, or the default."""
    summaries = [file.parent / SUMMARY for file in files]
    found = [json.loads(one.read_text())["scoring"] for one in summaries if one.is_file()]
    require_same_rule(found)
    return str(found[0]) if found else EvaluationConfig.scoring
