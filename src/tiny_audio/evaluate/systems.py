"""Results files as systems to look at or to compare, all under one scoring rule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tiny_audio.config import EvaluationConfig
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.evaluate.records import Evaluation, assemble, rescore
from tiny_audio.evaluate.wer import UtteranceScore
from tiny_audio.text.scoring import SCORING, ScoringRule, get_rule

RESULTS, SUMMARY = "results.jsonl", "summary.json"


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
    files = [_results_file(path) for path in paths]
    rule = _rule(files, scoring)
    systems: list[System] = []
    for file in files:
        evaluation = rescore(file, rule)
        if not evaluation.scored:
            raise DataError(f"{file}: holds no utterance that was scored.")
        parts = evaluation.by(lambda record: record.model or "")
        folder = file.parent.resolve().name if file.name == RESULTS else file.stem
        for model, part in parts.items():
            name = Path(model).name if Path(model).exists() else model
            systems.append(System(name or folder, part, file.parent))
    names = [system.name for system in systems]
    return [
        system if names.count(system.name) == 1 else System(name, system.evaluation, system.folder)
        for system, name in zip(systems, _distinct(systems), strict=True)
    ]


def select(evaluation: Evaluation, places: Sequence[int]) -> Evaluation:
    """The scored utterances at some places of `evaluation.scored`, in that order."""
    scored = evaluation.scored
    utterances: list[UtteranceScore] = [evaluation.score.utterances[i] for i in places]
    return assemble([scored[i] for i in places], utterances, evaluation.score.rule)


def _results_file(path: Path) -> Path:
    if path.is_dir():
        if not (path / RESULTS).is_file():
            raise DataError(
                f"{path}: the folder holds no {RESULTS}; give one of `tiny-audio eval`."
            )
        return path / RESULTS
    return path


def _rule(files: Sequence[Path], scoring: str | None) -> ScoringRule:
    """The rule that was asked for, else the one that all summaries beside the files agree on."""
    if scoring is not None:
        return get_rule(scoring)
    made = {file: found for file in files if (found := _made_with(file)) is not None}
    rules = set(made.values())
    if len(rules) > 1:
        said = ", ".join(f"{file.parent} with {rule}" for file, rule in made.items())
        raise ConfigError(
            f"These were scored under different rules ({said}): name one by --scoring, and all "
            "are scored again under it."
        )
    name = rules.pop().split("/")[0] if rules else EvaluationConfig.scoring
    return get_rule(name if name in SCORING else EvaluationConfig.scoring)


def _made_with(file: Path) -> str | None:
    """The rule's id that the summary beside a results file names; None where there is none."""
    try:
        found = json.loads((file.parent / SUMMARY).read_text(encoding="utf-8")).get("scoring")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def _distinct(systems: Sequence[System]) -> list[str]:
    """Names by the folder as well, and numbered where that is not enough."""
    names = [f"{system.folder.resolve().name}/{system.name}" for system in systems]
    return [
        name if names.count(name) == 1 else f"{name} ({names[:i].count(name) + 1})"
        for i, name in enumerate(names)
    ]
