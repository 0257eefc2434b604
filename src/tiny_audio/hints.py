"""What to say about a setting that is wrong: one line with the nearest valid name.

The schema in ``config.py`` is the only source: dotted keys are walked down its dataclasses, so a
new setting is known here as soon as it is written there.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tiny_audio.config import Config
from tiny_audio.errors import ConfigError

GROUPS = ("model", "data", "training")  # chosen as group=option
EXPERIMENTS = "experiments"  # chosen as +experiments=option
BENCHMARKS = "data/eval"  # test sets, added as +data/eval=option
HELP = "tiny-audio train --cfg job shows every setting"


def fields_of(schema: type) -> dict[str, Any]:
    """The settings of one dataclass and their types."""
    hints = typing.get_type_hints(schema)
    return {item.name: hints[item.name] for item in dataclasses.fields(schema)}


def value_schema(kind: Any) -> Any:
    """What a ``dict[str, X]`` holds: X; None for any other type."""
    arguments = typing.get_args(kind)
    return arguments[1] if typing.get_origin(kind) is dict else None


def schema_keys(schema: type = Config, prefix: str = "", name: str = "NAME") -> Iterator[str]:
    """Every dotted key, sections included; ``name`` stands where a mapping takes any name."""
    for key, kind in fields_of(schema).items():
        yield prefix + key
        inner = value_schema(kind)
        if dataclasses.is_dataclass(inner):
            assert isinstance(inner, type)
            yield from schema_keys(inner, f"{prefix}{key}.{name}.", name)
        elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from schema_keys(kind, f"{prefix}{key}.", name)


def type_of(key: str) -> Any:
    """The type of a dotted key in the schema; raises KeyError where there is no such key."""
    kind: Any = Config
    for part in key.split("."):
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            kind = fields_of(kind)[part]
        elif (inner := value_schema(kind)) is not None:
            kind = inner
        elif kind is not Any:  # below Any everything goes
            raise KeyError(key)
    return kind


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The word most like ``word``, or None where none is like it."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return found[0] if found else None


def nearest_key(key: str) -> str | None:
    """The valid dotted key most like ``key``; one that ends alike goes before one spelt alike."""
    parts = key.split(".")
    name = parts[2] if parts[:1] == ["data"] and len(parts) > 2 else "NAME"
    keys = [*schema_keys(name=name), EXPERIMENTS]
    alike = [known for known in keys if known.split(".")[-1] == parts[-1]]
    if alike:
        return max(alike, key=lambda known: difflib.SequenceMatcher(None, key, known).ratio())
    by_last = {known.split(".")[-1]: known for known in reversed(keys)}
    last = nearest(parts[-1], by_last) if len(parts) == 1 else None
    return nearest(key, keys) or (by_last[last] if last else None)


def unknown_key(key: str) -> ConfigError:
    """There is no such setting: name the nearest one."""
    near = nearest_key(key)
    tip = f"did you mean {near}?" if near else HELP
    return ConfigError(f"there is no setting {key}: {tip}")


def is_mapping(key: str) -> bool:
    """Whether a section takes any names, as data.train does."""
    return bool(key) and value_schema(type_of(key)) is not None


def unknown_name(key: str) -> ConfigError:
    """A section that takes any names has not this one yet: say how to add it."""
    section, _, name = key.rpartition(".")
    if dataclasses.is_dataclass(value_schema(type_of(section))):
        how = f"'+{section}={{{name}: {{key: value}}}}'"
    else:
        how = f"+{key}=VALUE"
    return ConfigError(f"{section} has no {name}: add it with {how}")


def unknown_option(group: str, option: str, options: Sequence[str]) -> ConfigError:
    """A group has no such option: name the nearest one, else all."""
    near, plus = nearest(option, options), "+" if group in (EXPERIMENTS, BENCHMARKS) else ""
    known = ", ".join(sorted(options))
    tip = f"did you mean {plus}{group}={near}?" if near else f"there are {known}"
    return ConfigError(f"{group} has no option {option}: {tip}")


def name_of_type(kind: Any) -> str:
    """A type as people say it: ``a whole number``."""
    arguments = [item for item in typing.get_args(kind) if item is not type(None)]
    if typing.get_origin(kind) is list:
        return "a list, written [a,b]"
    if typing.get_origin(kind) is dict:
        return "a mapping such as {name: …}"
    if arguments:
        return f"{name_of_type(arguments[0])} or null"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))


def wrong_type(key: str, value: object) -> ConfigError:
    """The value does not fit: say what does."""
    kind = type_of(key)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        inner = ", ".join(f"{key}.{name}" for name in fields_of(kind))
        return ConfigError(f"{key} is a section, not one value: set {inner}")
    return ConfigError(f"{key}={value}: {key} takes {name_of_type(kind)}")


def check_arguments(arguments: Sequence[str], flags: Iterable[str]) -> None:
    """Refuse ``--key value`` and ``--key=value`` for settings, which are written ``key=value``."""
    known = set(flags)
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if not name.startswith("-") or name in known:
            continue
        following = arguments[index + 1] if index + 1 < len(arguments) else ""
        if not value and "=" not in following and not following.startswith("-"):
            value = following
        key = name.lstrip("-").replace("-", "_")
        try:
            type_of(key)
        except KeyError:
            raise unknown_key(key) from None
        raise ConfigError(f"write {key}={value or 'VALUE'}, not {name}")


def check_key(key: str, added: bool) -> None:
    """Refuse a setting that the schema does not have, before anything is composed.

    Args:
        key: the left side of one ``key=value``, without ``+``.
        added: whether it was written with ``+``.
    """
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        return
    key, _, package = key.partition("@")
    if key == EXPERIMENTS:
        if not added:
            raise ConfigError("an experiment is added with a plus: write +experiments=NAME")
        return
    if key == BENCHMARKS and added:
        return
    if added and key in GROUPS and not package:
        raise ConfigError(f"{key} is already there: write {key}=NAME, without the plus")
    try:
        type_of(key)
    except KeyError:
        raise unknown_key(key) from None
