"""What to say about a setting that is wrong: one line with the nearest valid name.

The dataclasses of ``config.py`` are the only source of names: a new setting is known at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterator, Sequence

from tiny_audio.config import RENAMED, Config
from tiny_audio.errors import ConfigError

EXPERIMENTS = "experiments"  # chosen as +experiments=option
BENCHMARKS = "data/eval"  # test sets, added as +data/eval=option

_SECONDS = "batches are counted in seconds of audio; set {0}.batch_seconds or {0}.max_utterances"

# What transformers' Trainer has and Tiny Audio has not, or elsewhere: what to set instead, and why.
# Names that differ little, and those of another section, need no line: the nearest is found.
ADVICE = {
    r"\w*epochs|steps": "training data is streamed and counted in steps; set training.max_steps",
    r"\w*eval\w*batch_size": _SECONDS.format("evaluation"),
    r"\w*batch_size": _SECONDS.format("training"),
    r"(fp|bf|tf)(16|32)\w*|mixed_precision": "set training.precision=bf16, or auto or fp32 "
    "(fp16 is not offered: its narrow range needs loss scaling)",
    r"optim\w*|adam_epsilon": "the optimizer is torch's AdamW; set training.adam_beta1, "
    "training.adam_beta2 or training.weight_decay",
    r"lr_scheduler\w*|warmup_ratio": "the rate rises over training.warmup_steps, then falls along "
    "a cosine to training.min_lr_rate of its peak; set these",
    r"(logging|eval|evaluation|save)_strategy": "all are counted in steps; set "
    "training.logging_steps, training.eval_steps or training.save_steps",
    r"dataloader_num_workers": "set data.num_workers",
    r"load_best_model_at_end|greater_is_better": "the best checkpoint, that of the lowest "
    "training.metric_for_best_model, is always kept, and used where a run's folder is named",
    r"logging_dir|run_name|overwrite_output_dir": "a run is a new folder; set output_dir",
    r"push_to_hub": "training uploads nothing; afterwards run tiny-audio push RUN USER/NAME",
    r"resume": "set training.resume_from_checkpoint=last",
    r"lora_r(ank)?|(use_)?(lora|peft)": "set training.learns=[projector,lora], and model.lora.r",
    r"\w*flash_att\w*": "set model.attn_implementation=flash_attention_2",
    r"freeze_\w*": "what training.learns does not name is frozen; set training.learns=[projector]",
    r"\w*wandb\w*": "set training.report_to=wandb",
    r"race": "run one after another with data.cache_encoder=DIR: the encoder runs once for all",
    r"model_name\w*": "set model=NAME for a pair, or model.encoder.id and model.decoder.id",
}


def schema_keys(schema: type = Config, prefix: str = "", name: str = "NAME") -> Iterator[str]:
    """Every dotted key, sections included; ``name`` stands where a mapping takes any name."""
    for key, kind in typing.get_type_hints(schema).items():
        yield prefix + key
        inner, place = kind, f"{prefix}{key}."
        if typing.get_origin(kind) is dict:
            inner, place = typing.get_args(kind)[1], f"{prefix}{key}.{name}."
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            yield from schema_keys(inner, place, name)


def nearest_key(key: str) -> str | None:
    """The valid dotted key most like ``key``: of those whose last name is most like its last."""
    parts = key.split(".")
    name = parts[2] if parts[0] == "data" and len(parts) > 2 else "NAME"
    keys = [*schema_keys(name=name), EXPERIMENTS]
    last = difflib.get_close_matches(parts[-1], [known.split(".")[-1] for known in keys], 1)
    alike = [known for known in keys if known.split(".")[-1] in last]
    ordered = difflib.get_close_matches(key, alike, len(alike) or 1, cutoff=0)
    section = key.rpartition(".")[0]  # the nearest one there; elsewhere rather one near the top
    return min(ordered, key=lambda k: (k.rpartition(".")[0] != section, k.count(".")), default=None)


def advice_on(key: str) -> str | None:
    """What to set instead of a setting (in full, bare, or under ``training``) of earlier versions,
    or of transformers' Trainer."""
    name = key.replace("-", "_").removeprefix("training.")
    today = []
    for old, new in RENAMED.items():
        section = new.rpartition(".")[0]
        former = old.removeprefix(f"{section}.").partition(".")[0]  # without a part of its value
        if key in (old, f"{section}.{former}") or name == former:
            today.append(new)
    if today:
        return f"set {', '.join(today)}"
    bare = name.rpartition(".")[2]
    return next((tip for known, tip in ADVICE.items() if re.fullmatch(known, bare)), None)


def unknown_key(key: str) -> ConfigError:
    """There is no such setting: say what to set instead, or name the nearest one."""
    near = nearest_key(key)
    nearest = f"did you mean {near}?" if near else "tiny-audio train --cfg job shows every setting"
    return ConfigError(f"there is no setting {key}: {advice_on(key) or nearest}")


def unknown_name(key: str, values: type) -> ConfigError:
    """A mapping has not this name yet: say how to add it."""
    section, _, name = key.rpartition(".")
    several = dataclasses.is_dataclass(values)
    how = f"'+{section}={{{name}: {{key: value}}}}'" if several else f"+{section}.{name}=VALUE"
    return ConfigError(f"{section} has no {name}: add it with {how}")


def unknown_option(group: str, option: str, options: Sequence[str]) -> ConfigError:
    """A group has no such option: name the nearest one, else all."""
    near = difflib.get_close_matches(option, options, 1)
    plus = "+" if group in (EXPERIMENTS, BENCHMARKS) else ""
    known = ", ".join(sorted(options))
    tip = f"did you mean {plus}{group}={near[0]}?" if near else f"there are {known}"
    return ConfigError(f"{group} has no option {option}: {tip}")


def wrong_value(key: str, message: str) -> ConfigError:
    """A value does not fit, or a section was given one."""
    inner = [known for known in schema_keys() if known.rpartition(".")[0] == key]
    if inner:
        return ConfigError(f"{key} is a section, not one value: set {', '.join(inner)}")
    return ConfigError(f"{key}: {message}")


def written_as_flag(argument: str) -> ConfigError:
    """``--key`` or ``--key=value`` for a setting, which is written ``key=value``."""
    name, _, value = argument.partition("=")
    key = name.lstrip("-").replace("-", "_")
    if nearest_key(key) == key:
        return ConfigError(f"write {key}={value or 'VALUE'}, not {name}")
    return unknown_key(key)


def check_rates(overrides: Sequence[str], learns: Sequence[str]) -> None:
    """Refuse ``training.learning_rate``, the projector's, where the projector does not learn."""
    name = "training.learning_rate"
    if "projector" not in learns and any(item.startswith(f"{name}=") for item in overrides):
        right = " or ".join(f"training.{part}_learning_rate" for part in learns)
        raise ConfigError(f"{name} is the projector's, which is frozen in this stage: set {right}")
