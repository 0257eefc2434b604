"""From settings, or from a name, to sources; and the evaluation set or the hold-out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path

from tiny_audio.compose import compose
from tiny_audio.config import Config, SourceConfig
from tiny_audio.data.local import FolderSource, ManifestSource
from tiny_audio.data.mixture import mean_seconds
from tiny_audio.data.records import Source, Spec
from tiny_audio.data.shards import RETRY_OPTIONS, open_shards
from tiny_audio.data.synthetic import SyntheticSource
from tiny_audio.errors import DataError, SourceError
from tiny_audio.hints import BENCHMARKS


def open_sources(specs: Mapping[str, Spec], *, key: str, typed: str | None = None) -> list[Source]:
    """Open every source; raises DataError, with the setting to change, for what cannot be opened.

    For messages: `key` is where these settings stand, `typed` the option that named their path.
    """
    found = []
    for name, spec in specs.items():
        try:
            found.append(_open(name, spec, f"{key}.{name}"))
        except SourceError as error:
            # No setting of evaluation data can be typed beside the option that names it.
            look = typed and (error.setting == "path" or key != "data.train")
            remedy = f"look at {typed}" if look else f"set {key}.{name}.{error.setting}"
            raise DataError(f"{error}: {remedy}.") from error
    return found


def open_data(
    train: Mapping[str, Spec],
    evaluation: Mapping[str, Spec],
    *,
    holdout: int,
    weights: str = "utterances",
) -> tuple[list[Source], list[Source]]:
    """Open the training sources and what to evaluate on.

    With `weights` ``hours`` weights are shares of audio, not of utterances. Where no evaluation
    source has a path, `holdout` utterances are held out of the training sources by their ids.
    """
    if not train:
        raise DataError("There is no training data: set data=..., or data.train.NAME.path.")
    if weights not in ("utterances", "hours"):
        raise DataError(f"data.weights={weights}: use utterances or hours.")
    trained = open_sources(train, key="data.train")
    if weights == "hours" and len(trained) > 1:
        for source in trained:
            source.weight /= mean_seconds(source, train[source.name].get("mean_seconds"))
    given = _with_path(evaluation)
    if given or holdout <= 0:
        return trained, open_sources(given, key="data.eval")
    return hold_out(trained, holdout)


def hold_out(sources: Sequence[Source], count: int) -> tuple[list[Source], list[Source]]:
    """Split each source: `count` utterances over all, as even a share of each as can be."""
    share, rest = divmod(count, len(sources))
    parts = [source.hold_out(share + (n < rest)) for n, source in enumerate(sources)]
    return [left for left, _ in parts], [held for _, held in parts if held.length != 0]


def _with_path(specs: Mapping[str, Spec]) -> dict[str, Spec]:
    return {k: v for k, v in specs.items() if v["path"] is not None or v["kind"] == "synthetic"}


def _open(name: str, spec: Spec, key: str) -> Source:
    kind = spec["kind"]
    if kind not in KINDS:
        raise DataError(f"{key}.kind={kind} is no kind of source: use {' | '.join(KINDS)}.")
    opener, meaningless, options = KINDS[kind]
    if given := [field for field in meaningless if spec[field] is not None]:
        raise DataError(f"{key}.{given[0]} has no meaning for kind={kind}: remove it.")
    if options is not None and (unknown := ", ".join(sorted({*spec["options"]} - {*options}))):
        known = ", ".join(options) or "none"
        raise DataError(f"{key}.options has {unknown}, but {kind} knows {known}.")
    if spec["max_samples"] is not None and spec["max_samples"] < 1:
        raise DataError(f"{key}.max_samples={spec['max_samples']}: use 1 or more, or null for all.")
    if "path" not in meaningless and not spec["path"]:
        short = "data.path" if key.startswith("data.train.") else "data.eval_path"
        raise DataError(f"{key} has no path: set {short}=..., or {key}.path=...")
    return opener(name, spec, key)


_Opener = Callable[[str, Spec, str], Source]
_NO_HUB = ("subset", "split", "revision")

# kind -> its opener, fields that must be null, and the options it knows (None: passed on)
KINDS: dict[str, tuple[_Opener, tuple[str, ...], tuple[str, ...] | None]] = {
    "manifest": (lambda name, spec, _: ManifestSource(name, spec), _NO_HUB, ()),
    "folder": (lambda name, spec, _: FolderSource(name, spec), _NO_HUB, ()),
    "hub": (open_shards, (), None),
    "synthetic": (SyntheticSource, ("path", "subset", "revision", "id_column"), ("seed",)),
    "parquet": (open_shards, _NO_HUB, RETRY_OPTIONS),
    "webdataset": (open_shards, _NO_HUB, RETRY_OPTIONS),
}


def open_set(data: str, option: str = "--data") -> list[Source]:
    """Open what `data`, typed after `option`, names: a manifest, a folder, a benchmark or a preset.

    Of a name that is both, the benchmark goes before the preset. Raises DataError where it is none
    of these, or cannot be opened.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        sets = {path.resolve().name: SourceConfig(kind="folder", path=data)}
    elif path.is_file():
        sets = {path.stem: SourceConfig(path=data, audio_column="audio_filepath")}
    elif data in benchmarks():
        sets = compose([f"+{BENCHMARKS}={data}", "data=manifest", "output_dir=."]).data.eval
    else:
        sets = _preset(data).data.eval
    given = _with_path({name: asdict(source) for name, source in sets.items()})
    if not given:
        raise DataError(f"The preset {data} names no evaluation data: give a manifest or a folder.")
    return open_sources(given, key="data.eval", typed=option if path.exists() else None)


def training_settings(data: str, settings: Sequence[str]) -> Config:
    """The configuration, with further ``key=value``, of a training run on what `data` names.

    A manifest or a folder becomes the one training source, `main`. Raises DataError where `data`
    is nothing known, ConfigError for a wrong setting.
    """
    path = Path(data).expanduser()
    kind = "folder" if path.is_dir() else "manifest" if path.is_file() else None
    if kind is None:
        _preset(data)
    config = compose([f"data={kind or data}", *settings, "output_dir=."])
    if kind is not None:
        config.data.train["main"].path = data
    return config


def benchmarks() -> list[str]:
    """The public test sets that are known by name: the files of conf/data/eval."""
    return _options(BENCHMARKS)


def _options(group: str) -> list[str]:
    folder = resources.files("tiny_audio.conf").joinpath(group)
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".yaml"))


def _preset(name: str) -> Config:
    if name in (presets := _options("data")):
        return compose([f"data={name}", "output_dir=."])
    known = ", ".join(sorted({*presets, *benchmarks()}))
    raise DataError(f"{name}: there is no such file, folder or preset; presets: {known}.")
