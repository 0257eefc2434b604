"""From settings to sources: one opener for each kind, and the evaluation set or the hold-out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tiny_audio.data.folder import FolderSource
from tiny_audio.data.hub import open_files, open_hub
from tiny_audio.data.manifest import ManifestSource
from tiny_audio.data.records import Source
from tiny_audio.data.remote import PATIENCE
from tiny_audio.data.spoken import SpokenSource
from tiny_audio.data.weights import UNITS, mean_seconds
from tiny_audio.errors import DataError, SourceError

Spec = Mapping[str, Any]  # the fields of one source, as in the configuration


def open_sources(specs: Mapping[str, Spec], *, key: str, typed: str | None = None) -> list[Source]:
    """Open every source.

    Args:
        specs: name -> kind, path, subset, split, revision, audio_column, text_column, id_column,
            speaker_column, max_samples, weight, options.
        key: where these settings stand, for messages: ``data.train``.
        typed: what on the command line named their path, where it was no setting: ``--data``.

    Raises DataError, with the setting to change, for what cannot be opened.
    """
    found = []
    for name, spec in specs.items():
        try:
            found.append(_open(name, spec, f"{key}.{name}"))
        except SourceError as error:
            raise DataError(
                f"{error}: {_remedy(error.setting, f'{key}.{name}', typed)}."
            ) from error
    return found


def _remedy(setting: str, key: str, typed: str | None) -> str:
    """What to do about a source that is not what one of its settings says."""
    if typed is None:
        return f"set {key}.{setting}" + (f", or {key}.kind" if setting == "path" else "")
    if setting == "path":
        return f"give another manifest or folder as {typed}"
    if key.startswith("data.train"):  # settings can be typed beside it
        return f"set {key}.{setting}=NAME"
    return f"rename it in the file, {typed} goes by that name"


def open_data(
    train: Mapping[str, Spec],
    evaluation: Mapping[str, Spec],
    *,
    holdout: int,
    weights: str = "utterances",
) -> tuple[list[Source], list[Source]]:
    """Open the training sources and what to evaluate on.

    With `weights` ``hours`` the weights of the sources become what they must be for the shares of
    audio, not of utterances, to be as asked.

    Evaluation sources without a path are left out. Where none remains, `holdout` utterances of
    the training sources are held out by their ids; with holdout 0 there is no evaluation.
    """
    if not train:
        raise DataError("There is no training data: set data=..., or data.train.NAME.path.")
    if weights not in UNITS:
        raise DataError(f"data.weights={weights}: use {' or '.join(UNITS)}.")
    trained = open_sources(train, key="data.train")
    if weights == "hours" and len(trained) > 1:
        for source in trained:
            source.weight /= mean_seconds(source, train[source.name].get("mean_seconds"))
    given = {
        name: spec
        for name, spec in evaluation.items()
        if spec["path"] is not None or spec["kind"] == "synthetic"
    }
    if given:
        return trained, open_sources(given, key="data.eval")
    if holdout <= 0:
        return trained, []
    return hold_out(trained, holdout)


def hold_out(sources: Sequence[Source], count: int) -> tuple[list[Source], list[Source]]:
    """Split each source: `count` utterances over all, as even a share of each as can be."""
    parts = [
        source.hold_out(count // len(sources) + (number < count % len(sources)))
        for number, source in enumerate(sources)
    ]
    return [left for left, _ in parts], [held for _, held in parts if held.length != 0]


def _open(name: str, spec: Spec, key: str) -> Source:
    kind = spec["kind"]
    if kind not in KINDS:
        raise DataError(f"{key}.kind={kind} is no kind of source: use {' | '.join(KINDS)}.")
    opener, meaningless, options = KINDS[kind]
    for field in meaningless:
        if spec[field] is not None:
            raise DataError(f"{key}.{field} has no meaning for kind={kind}: remove it.")
    unknown = set(spec["options"]) - set(options) if options is not None else set()
    if unknown:
        known = ", ".join(options or ()) or "none"
        raise DataError(
            f"{key}.options has {', '.join(sorted(unknown))}, but {kind} knows {known}."
        )
    if spec["max_samples"] is not None and spec["max_samples"] < 1:
        raise DataError(f"{key}.max_samples={spec['max_samples']}: use 1 or more, or null for all.")
    if "path" not in meaningless and not spec["path"]:
        short = "data.path" if key.startswith("data.train.") else "data.eval_path"
        raise DataError(f"{key} has no path: set {short}=..., or {key}.path=...")
    return opener(name, spec, key)


def _manifest(name: str, spec: Spec, key: str) -> Source:
    return ManifestSource(
        name,
        Path(spec["path"]).expanduser(),
        weight=spec["weight"],
        max_samples=spec["max_samples"],
        audio_column=spec["audio_column"],
        text_column=spec["text_column"],
        id_column=spec["id_column"],
        speaker_column=spec["speaker_column"],
        duration_column=spec["options"].get("duration_column", "duration"),
    )


def _folder(name: str, spec: Spec, key: str) -> Source:
    return FolderSource(
        name,
        Path(spec["path"]).expanduser(),
        weight=spec["weight"],
        max_samples=spec["max_samples"],
        text_column=spec["text_column"],
        id_column=spec["id_column"],
        speaker_column=spec["speaker_column"],
    )


def _synthetic(name: str, spec: Spec, key: str) -> Source:
    return SpokenSource(
        name,
        key=key,
        weight=spec["weight"],
        max_samples=spec["max_samples"],
        split=spec["split"] or "train",
        seed=spec["options"].get("seed", 0),
    )


# kind -> its opener, fields that must be null, and the options it knows (None: passed on)
KINDS: dict[str, tuple[Callable[[str, Spec, str], Source], tuple[str, ...], tuple[str, ...] | None]]
KINDS = {
    "manifest": (_manifest, ("subset", "split", "revision"), ("duration_column",)),
    "folder": (_folder, ("subset", "split", "revision"), ()),
    "hub": (open_hub, (), None),
    "synthetic": (_synthetic, ("path", "subset", "revision", "id_column"), ("seed",)),
    "parquet": (open_files, ("subset", "split", "revision"), PATIENCE),
    "arrow": (open_files, ("subset", "split", "revision"), PATIENCE),
    "webdataset": (open_files, ("subset", "split", "revision"), PATIENCE),
}
