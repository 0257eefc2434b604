"""Results files: one record an utterance, from which every figure is computed.

`results.jsonl` is all that is needed to score again, under the same rule or another, without the
model, and to go on with an evaluation that was stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tiny_audio.config import EvaluationConfig
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate.wer import Score, UtteranceScore, score
from tiny_audio.text.scoring import SCORING, ScoringRule, get_rule

RESULTS, SUMMARY, SETTINGS = "results.jsonl", "summary.json", "settings.json"

# --------------------------------------------------------------------------- records and scores


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

    def to_json(self) -> str:
        """One line of a results file."""
        return json.dumps(asdict(self), ensure_ascii=False)


_FIELDS = frozenset(one.name for one in fields(Record))


@dataclass(frozen=True)
class Evaluation:
    """A scored set: records in input order, and the score of those that did not fail."""

    records: tuple[Record, ...]
    score: Score

    @property
    def scored(self) -> list[Record]:
        """Records with a hypothesis, in the order of `score.utterances`."""
        return [record for record in self.records if record.error is None]

    def pairs(self) -> list[tuple[Record, UtteranceScore]]:
        """The scored records with their scores."""
        return list(zip(self.scored, self.score.utterances, strict=True))

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
        """Counts, rates and speed, ready for JSON."""
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
            name: Evaluation(tuple(records), Score.of(self.score.rule, utterances))
            for name, (records, utterances) in parts.items()
        }

    def select(self, positions: Sequence[int]) -> Evaluation:
        """The utterances at some positions of `scored`, in that order."""
        pairs = self.pairs()
        chosen = [pairs[i] for i in positions]
        utterances = [one for _, one in chosen]
        return Evaluation(
            tuple(record for record, _ in chosen), Score.of(self.score.rule, utterances)
        )


def set_name(record: Record) -> str:
    """The test set of a record, or its source where no set is named."""
    return record.set or record.source


# ------------------------------------------------------------------------------- reading results


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
        return Record(**{name: value for name, value in values.items() if name in _FIELDS})
    except (ValueError, TypeError, AttributeError):
        return None


@dataclass(frozen=True)
class System:
    """One model's results. folder: where its results file lies; audio paths may start there."""

    name: str
    evaluation: Evaluation
    folder: Path


def load_systems(paths: Sequence[Path], scoring: str | None) -> list[System]:
    """Read results files, or folders that hold one, and score them all under one rule.

    A file that holds the results of several models becomes several systems.

    Args:
        scoring: name of the rule; None: the one that the evaluations were made with.

    Raises:
        ConfigError: they were made with different rules and `scoring` does not name one.
        DataError: a file cannot be read or holds no utterance that was scored.
    """
    files = [results_file(path) for path in paths]
    rule = _common_rule(files) if scoring is None else get_rule(scoring)
    systems: list[System] = []
    for file in files:
        evaluation = rescore(file, rule)
        if not evaluation.scored:
            raise DataError(f"{file}: holds no utterance that was scored.")
        folder = file.parent.resolve().name if file.name == RESULTS else file.stem
        for model, part in evaluation.by(lambda record: record.model or "").items():
            name = Path(model).name if Path(model).exists() else model
            systems.append(System(name or folder, part, file.parent))
    names = [system.name for system in systems]
    full = [f"{system.folder.resolve().name}/{system.name}" for system in systems]
    for i, system in enumerate(systems):
        if names.count(system.name) > 1:
            number = f" ({full[:i].count(full[i]) + 1})" if full.count(full[i]) > 1 else ""
            systems[i] = System(full[i] + number, system.evaluation, system.folder)
    return systems


def results_file(path: Path) -> Path:
    """A results file, or the one in a folder; DataError where the folder has none."""
    if not path.is_dir():
        return path
    if not (path / RESULTS).is_file():
        raise DataError(f"{path}: the folder holds no {RESULTS}; give one of `tiny-audio eval`.")
    return path / RESULTS


def _common_rule(files: Sequence[Path]) -> ScoringRule:
    """The rule that all summaries beside the files agree on."""
    found: dict[Path, str] = {}
    for file in files:
        try:
            summary = json.loads((file.parent / SUMMARY).read_text(encoding="utf-8"))
            found[file] = str(summary["scoring"])
        except (OSError, ValueError, TypeError, KeyError):
            continue  # no summary: results alone name no rule
    rules = set(found.values())
    if len(rules) > 1:
        listed = ", ".join(f"{file.parent} with {rule}" for file, rule in found.items())
        raise ConfigError(
            f"These were scored under different rules ({listed}): name one by --scoring, and all "
            "are scored again under it."
        )
    name = rules.pop().split("/")[0] if rules else EvaluationConfig.scoring
    return get_rule(name if name in SCORING else EvaluationConfig.scoring)


# ---------------------------------------------------------------------------------------- resume


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Take a folder for an evaluation with these settings (JSON values).

    Raises ConfigError where it holds results of another evaluation, naming what differs.
    """
    file = out / SETTINGS
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = [
            f"{name} was {_short(before.get(name))}, now {_short(settings.get(name))}"
            for name in {**before, **settings}
            if before.get(name) != settings.get(name)
        ]
        if changed:
            raise ConfigError(
                f"{out} holds another evaluation ({'; '.join(changed)}): choose another --out, or "
                "the same settings to go on with it."
            )
        return
    if (out / RESULTS).exists() or (out / SUMMARY).exists():
        raise ConfigError(f"{out} holds the results of an evaluation: choose another --out.")
    write_json(file, settings)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    text = json.dumps(values, indent=2, ensure_ascii=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def whole_chunks(path: Path, seconds: float, complete: bool) -> list[Record]:
    """The records of a results file that need not be made again; the rest is cut off the file.

    Args:
        seconds: of audio in a chunk, see `sets.chunks`.
        complete: whether the evaluation came to its end, so that every line counts.
    """
    if not path.is_file():
        return []
    records: list[Record] = []
    good, size = 0, 0  # records in whole chunks, and the bytes of these
    done, at, part = 0.0, 0, None
    with path.open("rb") as lines:
        for line in lines:
            record = parse_record(line) if line.endswith(b"\n") else None
            if record is None:
                break
            if (record.model, record.set) != part:  # the set before this one was read to its end
                good, size = len(records), at
                done, part = 0.0, (record.model, record.set)
            records.append(record)
            at += len(line)
            done += record.duration
            if done >= seconds or complete:
                good, size, done = len(records), at, 0.0
    with path.open("rb+") as file:
        file.truncate(size)
    return records[:good]


def fingerprint(path: Path) -> str | None:
    """A short name for the state of a file or a folder's files: names, sizes, times of change.

    None where there is no such path: a name, or an id of the hub.
    """
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    state = hashlib.blake2b(digest_size=8)
    for file in files:
        about = file.stat()
        state.update(f"{file.relative_to(path)}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return state.hexdigest()


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
