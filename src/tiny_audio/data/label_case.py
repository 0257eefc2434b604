"""``data.labels.case=auto``: what it does to each set, decided once from some labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from tiny_audio.config import LabelConfig
from tiny_audio.data.records import Source
from tiny_audio.data.utterance import Record
from tiny_audio.errors import LabelRejected
from tiny_audio.text.labels import LabelRules, case_for

LOOKED_AT = 200  # labels over all sets
_LEAST = 20  # of each set

Labels = dict[str, list[str]]  # by set, as they are written: the case is kept


def sample_labels(sources: Sequence[Source], labels: LabelConfig) -> Labels:
    """Some labels of each set; no audio is decoded. Sources of one name are one set."""
    rules = LabelRules("keep", labels.punctuation)
    count = max(LOOKED_AT // max(len(sources), 1), _LEAST)
    found: Labels = {source.name: [] for source in sources}
    for source in sources:
        for item in source.sample(count):
            if isinstance(item, Record):
                try:
                    found[source.name].append(rules.clean(item.text))
                except LabelRejected:  # counted and said when it is read for training
                    continue
    return found


def settle_case(labels: LabelConfig, found: Labels) -> list[str]:
    """Put what ``auto`` decides into ``labels.case_of``, where nothing is yet; lines to say."""
    lines: list[str] = []
    if labels.case != "auto":
        return lines
    for name in [name for name in found if name not in labels.case_of]:
        labels.case_of[name], share = case_for(found[name])
        if labels.case_of[name] != "keep":
            what = "all" if labels.case_of[name] == "lower" else "those"
            lines.append(
                f"Labels of {name}: {share:.0%} are in capitals; {what} are learned in lower case "
                f"(data.labels.case=auto; data.labels.case=keep leaves them)"
            )
    return lines


def label_rules(labels: LabelConfig) -> LabelRules:
    """The rules that the settings describe."""
    return LabelRules(**asdict(labels))
