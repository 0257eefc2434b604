"""From YAML files and ``key=value`` arguments to one checked ``Config``.

``compose`` serves Python and tests; ``entry`` gives a command Hydra's whole behaviour (overrides,
``--cfg job``, ``--multirun``, ``--help``). Either way a wrong setting ends in one ``ConfigError``
line that names the nearest right one, never in a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
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
SCHEMA = "tiny_audio_config"  # named in conf/config.yaml

ConfigStore.instance().store(name=SCHEMA, node=Config)


def compose(overrides: Sequence[str] = ()) -> Config:
    """The configuration that ``tiny-audio train`` would run with the same arguments.

    Args:
        overrides: ``key=value``, ``group=option`` or ``+experiments=NAME``.

    Raises:
        ConfigError: a setting is unknown, missing or of the wrong type.
    """
    with plain_errors(overrides):
        check(overrides)
        with hydra.initialize_config_module(CONF, version_base="1.3"):
            config = to_config(hydra.compose("config", overrides=list(overrides)))
            hints.check_rates(overrides, config.training.learns)
            return config


def entry(arguments: Sequence[str], task: Callable[[Config], None], program: str) -> None:
    """Run ``task`` with the configuration that the command line asks for, Hydra's way.

    Args:
        arguments: the command line after the command's name.
        task: called once, or once for each job of ``--multirun``.
        program: the command's name, shown in help.

    Raises:
        ConfigError: as in ``compose``. What ``task`` raises comes out unchanged.
    """
    flags = [flag for action in get_args_parser()._actions for flag in action.option_strings]
    hints.check_arguments(arguments, flags)
    overrides = [item for item in arguments if "=" in item and not item.startswith("-")]

    def job(settings: DictConfig) -> None:
        try:
            config = to_config(settings)
            hints.check_rates(overrides, config.training.learns)
            if HydraConfig.get().mode == RunMode.MULTIRUN:  # each job has a folder of its own
                config.output_dir = HydraConfig.get().runtime.output_dir
            task(config)
        except Exception as error:
            raise _FromTask(error) from error

    main = hydra.main(f"pkg://{CONF}", "config", version_base="1.3")(job)
    failure: Exception | None = None
    with plain_errors(overrides), _hydra_process([program, *_with_folders(arguments)]):
        check(overrides)
        try:
            main()
        except _FromTask as carried:
            failure = carried.error
        except ValueError as error:  # flags that exclude each other
            raise ConfigError(str(error)) from None
    if failure is not None:  # raised out here, with its own cause and untouched by plain_errors
        raise failure


def to_config(settings: DictConfig) -> Config:
    """Resolve and type a composed configuration; raises ConfigError for what is missing."""
    missing = sorted(OmegaConf.missing_keys(settings))
    if missing:
        raise ConfigError(f"needs a value: {', '.join(f'{key}=…' for key in missing)}")
    try:
        return cast(Config, OmegaConf.to_object(settings))
    except OmegaConfBaseException as error:
        raise _from_omegaconf(error, {}) from None


def check(overrides: Sequence[str]) -> None:
    """Refuse overrides whose keys the schema does not have."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        assert override.key_or_group is not None
        hints.check_key(override.key_or_group, override.is_add() or override.is_force_add())


@contextmanager
def plain_errors(overrides: Sequence[str]) -> Iterator[None]:
    """Turn Hydra's and OmegaConf's errors into one-line ConfigErrors."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        given = dict(item.lstrip("+~").split("=", 1) for item in overrides if "=" in item)
        raise _one_line(error, given) from None
    except yaml.YAMLError as error:
        raise ConfigError(" ".join(str(error).split())) from None


def _with_folders(arguments: Sequence[str]) -> list[str]:
    """The arguments, and where Hydra puts its own files.

    output_dir also names the folder that holds the jobs of --multirun. Of several processes
    (torchrun, accelerate launch) only the first writes: the others' clocks give other names.
    """
    own: list[str] = []
    folders = [item.partition("=")[2] for item in arguments if item.startswith("output_dir=")]
    if folders and {"--multirun", "-m"} & set(arguments):
        own.append(f"hydra.sweep.dir={folders[-1]}")
    if os.environ.get("RANK", "0") != "0":
        own += ["hydra.run.dir=.", "hydra.output_subdir=null"]
    return [*own, *arguments]


class _FromTask(BaseException):
    """Carries a task's error through Hydra, which would print its own lines about it."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


@contextmanager
def _hydra_process(argv: list[str]) -> Iterator[None]:
    """Let Hydra see this command line and raise its errors instead of printing them."""
    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = argv, "1"
    try:
        yield
    finally:
        sys.argv = before
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _one_line(error: Exception, given: dict[str, str]) -> ConfigError:
    """The ConfigError for one of Hydra's."""
    if isinstance(error, OverrideParseException):
        return ConfigError(f"cannot read {error.override!r}: settings are written key=value")
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return hints.unknown_option(group, option, error.options)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OmegaConfBaseException):
            return _from_omegaconf(cause, given)
        cause = cause.__cause__
    return ConfigError(" ".join(str(error).split()))


def _from_omegaconf(error: OmegaConfBaseException, given: dict[str, str]) -> ConfigError:
    """The ConfigError for one of OmegaConf's, whose attributes say which key was meant."""
    key = str(error.full_key or error.key or "")
    parent = key.rpartition(".")[0]
    message = " ".join(str(error.msg or error).split("\n")[0].split())
    try:
        if isinstance(error, ConfigKeyError | ConfigAttributeError):
            return hints.unknown_name(key) if hints.is_mapping(parent) else hints.unknown_key(key)
        if isinstance(error, ValidationError):
            return hints.wrong_type(key, given.get(key, _given_value(error)))
    except KeyError:
        pass
    return ConfigError(f"{key}: {message}" if key else message)


def _given_value(error: OmegaConfBaseException) -> Any:
    return error.value if error.value is not None else "…"
