"""From YAML files and ``key=value`` arguments to one checked ``Config``.

``compose`` serves Python and tests; ``command_line`` gives a command Hydra's whole behaviour
(overrides, ``--cfg job``, ``--multirun``, ``--help``). Either way a wrong setting ends in one
``ConfigError`` line that names the nearest right one, never in a traceback.
"""

from __future__ import annotations

import os
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from tiny_audio import hints
from tiny_audio.config import Config
from tiny_audio.errors import ConfigError

CONF = "tiny_audio.conf"

ConfigStore.instance().store(name="tiny_audio_config", node=Config)  # as conf/config.yaml calls it


def compose(overrides: Sequence[str] = ()) -> Config:
    """The configuration that ``tiny-audio train`` would run with the same arguments.

    overrides: ``key=value``, ``group=option`` or ``+experiments=NAME``. Raises ConfigError for a
    setting that is unknown, missing or of the wrong type.
    """
    with _plain_errors(), hydra.initialize_config_module(CONF, version_base="1.3"):
        return _typed(hydra.compose("config", overrides=list(overrides)), overrides)


def command_line(arguments: Sequence[str], program: str) -> list[Config]:
    """The configurations that a command line asks for, as Hydra reads it.

    One, one for each job of ``--multirun``, or none where the command line only asks to be shown
    something. Folders of runs are made. Raises ConfigError as ``compose`` does.
    """
    for argument in get_args_parser().parse_known_args(arguments)[1]:
        if argument.startswith("-"):
            raise hints.written_as_flag(argument)
    # output_dir also names the folder that holds the jobs of --multirun.
    folders = [item.partition("=")[2] for item in arguments if item.startswith("output_dir=")]
    own = [f"hydra.sweep.dir={folder}" for folder in folders]
    if os.environ.get("RANK", "0") != "0":  # of several processes only the first makes folders
        own += ["hydra.run.dir=.", "hydra.output_subdir=null"]
    jobs: list[DictConfig] = []

    def job(settings: DictConfig) -> None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # each job has a folder of its own
            settings.output_dir = HydraConfig.get().runtime.output_dir
        jobs.append(settings)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors, do not print them
    typed, sys.argv = sys.argv, [program, *own, *arguments]
    try:
        with _plain_errors():
            hydra.main(f"pkg://{CONF}", "config", version_base="1.3")(job)()
            return [_typed(settings, arguments) for settings in jobs]
    except ValueError as error:  # flags that exclude each other
        raise ConfigError(str(error)) from None
    finally:
        sys.argv = typed


def _typed(settings: DictConfig, overrides: Sequence[str]) -> Config:
    """Resolve and type a composed configuration."""
    missing = sorted(OmegaConf.missing_keys(settings))
    if missing:
        raise ConfigError(f"needs a value: {', '.join(f'{key}=…' for key in missing)}")
    config = OmegaConf.to_object(settings)
    assert isinstance(config, Config)
    _refuse_unknown(config)
    hints.check_rates(overrides, config.training.learns)
    return config


def _refuse_unknown(section: Any, prefix: str = "") -> None:
    """Refuse keys that the schema does not have: Hydra lets + add any."""
    known = {item.name for item in fields(section)} if is_dataclass(section) else set(section)
    for name, value in (vars(section) if is_dataclass(section) else section).items():
        if name not in known:
            raise hints.unknown_key(prefix + name)
        if is_dataclass(value) or isinstance(value, dict):
            _refuse_unknown(value, f"{prefix}{name}.")


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn Hydra's and OmegaConf's errors into one-line ConfigErrors."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise _one_line(error) from None


def _one_line(error: Exception) -> ConfigError:
    if isinstance(error, OverrideParseException):
        return ConfigError(f"cannot read {error.override!r}: settings are written key=value")
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return hints.unknown_option(group, option, error.options)
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if not isinstance(cause, OmegaConfBaseException):
        message = " ".join(str(error).split())
        if twice := re.match(r"Multiple values for ([\w/]+)\.", message):
            message = f"{twice[1]} is already there: write {twice[1]}=NAME, without the plus"
        return ConfigError(message)
    key = str(cause.full_key or cause.key or "")
    message = " ".join(str(cause.msg or cause).split("\n")[0].split())
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        if cause.object_type is dict:
            return hints.unknown_name(key, typing.get_args(cause.ref_type)[1])
        return hints.unknown_key(key)
    if isinstance(cause, ValidationError):
        return hints.wrong_value(key, message)
    return ConfigError(f"{key}: {message}" if key else message)
