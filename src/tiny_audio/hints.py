"""What to say about a setting that is wrong: one line with the nearest valid name.

The schema in ``config.py`` is the only source: dotted keys are walked down its dataclasses, so a
new setting is known here as soon as it is written there.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tiny_audio.config import RENAMED, Config
from tiny_audio.errors import ConfigError

GROUPS = ("model", "data", "training")  # chosen as group=option
EXPERIMENTS = "experiments"  # chosen as +experiments=option
BENCHMARKS = "data/eval"  # test sets, added as +data/eval=option
HELP = "tiny-audio train --cfg job shows every setting"

_STEPS = "training data is streamed and counted in steps; set training.max_steps"
_SECONDS = (
    "batches are counted in seconds of audio; set {0}.batch_seconds (cap: {0}.max_utterances)"
)
_ATTENTION = "set model.attn_implementation=flash_attention_2"
_LEARNS = "what training.learns does not name is frozen; set training.learns=[projector]"
_LORA = "set training.learns=[projector,lora], and model.lora.r"

# What transformers' Trainer has and Tiny Audio has not, or elsewhere: what to set instead, and why.
# Names that differ little, and those of another section, need no line: the nearest is found.
ADVICE = {
    "num_train_epochs": _STEPS,
    "num_epochs": _STEPS,
    "epochs": _STEPS,
    "steps": _STEPS,
    "*eval*batch_size": _SECONDS.format("evaluation"),
    "*batch_size": _SECONDS.format("training"),
    "max_tokens_per_batch": _SECONDS.format("training"),
    "fp16*": "fp16 is not offered, as its narrow range needs loss scaling; set "
    "training.precision=bf16 or training.precision=fp32",
    "bf16*": "set training.precision=bf16",
    "tf32": "it is on where the GPU has it; set training.precision to auto, bf16 or fp32",
    "mixed_precision": "set training.precision to auto, bf16 or fp32",
    "optim*": "the optimizer is AdamW; set training.adam_beta1, training.adam_beta2 or "
    "training.weight_decay",
    "adam_epsilon": "it is torch's, 1e-8; set training.adam_beta1 or training.adam_beta2",
    "lr_scheduler*": "the rate rises over training.warmup_steps, then falls along a cosine to "
    "training.min_lr_rate of its peak; set these",
    "warmup_ratio": "warmup is counted in steps; set training.warmup_steps",
    "logging_dir": "logs are in the folder of the run; set output_dir",
    "logging_strategy": "logging is counted in steps; set training.logging_steps",
    "eval*_strategy": "evaluations are counted in steps; set training.eval_steps (0: none)",
    "save_strategy": "saving is counted in steps; set training.save_steps (0: best and last only)",
    "dataloader_num_workers": "set data.num_workers",
    "load_best_model_at_end": "the best checkpoint is always kept, and used where a run's folder "
    "is named; set training.metric_for_best_model",
    "greater_is_better": "lower is better for both metrics; set training.metric_for_best_model",
    "run_name": "a run is called as its folder; set output_dir",
    "overwrite_output_dir": "a folder that holds a run is not overwritten; set another output_dir",
    "push_to_hub": "training uploads nothing; afterwards run hf upload REPO CHECKPOINT",
    "resume": "set training.resume_from_checkpoint=last",
    "lora_r": "set model.lora.r",
    "lora_rank": "set model.lora.r",
    "lora": _LORA,
    "use_lora": _LORA,
    "use_peft": _LORA,
    "attn": "set model.attn_implementation",
    "flash_att*": _ATTENTION,
    "use_flash_att*": _ATTENTION,
    "freeze_*": _LEARNS,
    "*wandb*": "set training.report_to=wandb",
    "race": "run them one after another with data.cache_encoder=DIR: the encoder runs once for all",
    "model_name*": "set model=NAME for one of the pairs, or model.encoder.id and model.decoder.id",
}


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


def advice_on(key: str) -> str | None:
    """What to set instead of a setting of earlier versions, or of transformers' Trainer.

    Args:
        key: in full, bare, or under ``training``.
    """
    name = key.replace("-", "_").removeprefix("training.")
    last = name.rpartition(".")[2]
    for section, names in RENAMED.items():
        for old, new in names.items():
            parts = {"": new} if isinstance(new, str) else new
            for part, today in parts.items():
                if key == f"{section}.{old}.{part}".rstrip("."):
                    return f"set {section}.{today}"
            if name == old or key == f"{section}.{old}":
                return "set " + ", ".join(f"{section}.{today}" for today in parts.values())
    found = [fnmatch.filter([name, last], known) for known in ADVICE]
    return next((tip for tip, fits in zip(ADVICE.values(), found, strict=True) if fits), None)


def unknown_key(key: str) -> ConfigError:
    """There is no such setting: say what to set instead, or name the nearest one."""
    near = nearest_key(key)
    tip = advice_on(key) or (f"did you mean {near}?" if near else HELP)
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


def check_rates(overrides: Sequence[str], learns: Sequence[str]) -> None:
    """Refuse ``training.learning_rate``, the projector's, where the projector does not learn."""
    name = "training.learning_rate"
    if "projector" not in learns and any(item.startswith(f"{name}=") for item in overrides):
        right = " or ".join(f"training.{part}_learning_rate" for part in learns)
        raise ConfigError(f"{name} is the projector's, which is frozen in this stage: set {right}")
