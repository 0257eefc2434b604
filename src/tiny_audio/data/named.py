"""Sets by name: a manifest, a folder, or a data preset, for evaluating and for checking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path

from tiny_audio.compose import compose
from tiny_audio.config import Config, SourceConfig
from tiny_audio.data.records import Source
from tiny_audio.data.sources import Spec, open_sources
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.hints import BENCHMARKS


def open_set(data: str, option: str = "--data") -> list[Source]:
    """Open what `data` names: a manifest file, a folder, a benchmark or a preset of conf/data.

    Of a preset that is both, the benchmark's test sets go before the sets for training. `option`:
    of the command line, after which `data` stood.

    Raises DataError where it is none of these, or cannot be opened.
    """
    typed = option if is_place(data) else None
    return open_sources(_specs(data), key="data.eval", typed=typed)


def is_place(data: str) -> bool:
    """Whether it is a manifest or a folder, not a name."""
    return Path(data).expanduser().exists()


def training_settings(data: str, settings: Sequence[str]) -> Config:
    """The configuration of a training run on what `data` names.

    A manifest or a folder becomes the one training source, `main`; a preset keeps its sources and
    how it cleans labels.

    Args:
        settings: further ``key=value``, such as ``data.train.main.text_column=sentence``.

    Raises DataError where `data` is nothing known, ConfigError for a wrong setting.
    """
    path = Path(data).expanduser()
    kind = "folder" if path.is_dir() else "manifest" if path.is_file() else None
    if kind is None:
        _preset(data)
    config = compose([f"data={kind or data}", *settings, "output_dir=."])
    if kind is not None:
        config.data.train["main"].path = data
    return config


def _specs(data: str) -> Mapping[str, Spec]:
    path = Path(data).expanduser()
    if path.is_dir():
        return {path.resolve().name: asdict(SourceConfig(kind="folder", path=data))}
    if path.is_file():
        spec = SourceConfig(kind="manifest", path=data, audio_column="audio_filepath")
        return {path.stem: asdict(spec)}
    if data in benchmarks():
        found = compose([f"+{BENCHMARKS}={data}", "data=manifest", "output_dir=."]).data.eval
    else:
        found = _preset(data).data.eval
    named = {k: v for k, v in found.items() if v.path is not None or v.kind == "synthetic"}
    if not named:
        raise DataError(f"The preset {data} names no evaluation data: give a manifest or a folder.")
    return {name: asdict(source) for name, source in named.items()}


def benchmarks() -> list[str]:
    """The public test sets that are known by name: the files of conf/data/eval."""
    return _options(BENCHMARKS)


def _options(group: str) -> list[str]:
    folder = resources.files("tiny_audio.conf").joinpath(group)
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".yaml"))


def _preset(name: str) -> Config:
    try:
        return compose([f"data={name}", "output_dir=."])
    except ConfigError:
        if name in _options("data"):
            raise
        known = ", ".join(sorted({*_options("data"), *benchmarks()}))
        raise DataError(
            f"{name}: there is no such file, folder or preset; presets: {known}."
        ) from None
