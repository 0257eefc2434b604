"""From the configuration to the parts of a run: processes, model, data. Used by run.py alone."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list, gather_object
from omegaconf import OmegaConf

from tiny_audio.audio.augment import SpecAugment
from tiny_audio.config import Config
from tiny_audio.data.augment import Augmenter, open_augmenter
from tiny_audio.data.loader import TrainingStream, eval_utterances
from tiny_audio.data.prepare import label_rules, quality_limits
from tiny_audio.data.records import Source
from tiny_audio.data.rejects import RejectCounts, RejectLog
from tiny_audio.data.sources import open_data
from tiny_audio.errors import ConfigError, DataError, MissingExtraError
from tiny_audio.model.build import build_model
from tiny_audio.model.checkpoint import (
    load_weights,
    read_config,
    read_info,
    take_revisions,
)
from tiny_audio.model.device import pick_device
from tiny_audio.model.lora import add_lora
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.scoring import get_rule
from tiny_audio.train.budget import AUTO, choose_budget
from tiny_audio.train.evaluation import HeldOut

Sources = tuple[list[Source], list[Source]]  # to learn from, to evaluate on

PROJECT = "tiny-audio"  # under which trackers file the run
_PRECISIONS = ("auto", "bf16", "fp32")
_TRACKERS = (None, "wandb", "tensorboard")
_METRICS = ("wer", "loss")


def check_settings(cfg: Config) -> None:
    """Raise ConfigError for a value that no part further down would notice in time."""
    t = cfg.training
    for key, value, known in (
        ("precision", t.precision, _PRECISIONS),
        ("report_to", t.report_to, _TRACKERS),
        ("metric_for_best_model", t.metric_for_best_model, _METRICS),
    ):
        if value not in known:
            names = ", ".join("null" if name is None else str(name) for name in known)
            raise ConfigError(f"training.{key}={value}: use one of {names}")
    for key in ("max_steps", "gradient_accumulation_steps", "logging_steps", "max_utterances"):
        if getattr(t, key) <= 0:
            raise ConfigError(f"training.{key}={getattr(t, key)}: must be above 0")
    patience = t.early_stopping_patience
    if patience is not None and (patience < 1 or t.eval_steps < 1):
        raise ConfigError(
            f"training.early_stopping_patience={patience}: must be 1 or more, with "
            "training.eval_steps above 0"
        )
    seconds = t.batch_seconds
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds != AUTO and not (number and seconds > 0):
        raise ConfigError(f"training.batch_seconds={seconds}: must be a number above 0, or {AUTO}")
    if cfg.data.cache_variants < 1:
        raise ConfigError(f"data.cache_variants={cfg.data.cache_variants}: must be 1 or more")
    if cfg.data.exhausted not in ("repeat", "stop"):
        raise ConfigError(f"data.exhausted={cfg.data.exhausted}: use one of repeat, stop")
    get_rule(cfg.evaluation.scoring)
    quality_limits(cfg.data)
    if t.report_to is not None and importlib.util.find_spec(t.report_to) is None:
        raise MissingExtraError(
            f"training.report_to={t.report_to}: not installed; pip install 'tiny-audio[track]'"
        )


def open_accelerator(cfg: Config) -> Accelerator:
    """Join the processes that ``accelerate launch`` or ``torchrun`` started, or be the only one."""
    # Batches of many shapes leave holes in CUDA's memory; read when CUDA is first used.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    device = pick_device(cfg.device)
    precision = cfg.training.precision
    if precision == "auto":
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if bf16 else "fp32"
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for the products of what learns
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
        log_with=cfg.training.report_to,
        project_dir=cfg.output_dir,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def agree_on_folder(accelerator: Accelerator, output_dir: str) -> Path:
    """The main process's output folder: its name may hold the time, which differs by process."""
    return Path(broadcast_object_list([output_dir])[0])


def start_tracker(accelerator: Accelerator, cfg: Config, folder: Path) -> None:
    """Open the tracker, if any. W&B keeps its files here where there is no key."""
    tracker = cfg.training.report_to
    if tracker is None:
        return
    if tracker == "wandb" and not (os.environ.get("WANDB_API_KEY") or _netrc_has_wandb()):
        os.environ.setdefault("WANDB_MODE", "offline")
    own = {"wandb": {"dir": str(folder), "name": folder.name}}
    settings = _flat(OmegaConf.to_container(OmegaConf.structured(cfg)))
    try:
        accelerator.init_trackers(PROJECT, config=settings, init_kwargs=own)
    except Exception:
        accelerator.trackers.clear()  # half made: closing it would hide why it failed
        raise


def make_model(cfg: Config, device: torch.device, start: Path | None) -> SpeechModel:
    """Build the pair, its adapters where they are to learn, and load the weights of ``start``.

    Raises:
        CheckpointError: ``start`` belongs to another pair, projector or adapter; it is named.
    """
    spec_augment = SpecAugment(**asdict(cfg.training.spec_augment))
    if start is not None:
        take_revisions(cfg.model, start)
    model = build_model(cfg.model, device=device, spec_augment=spec_augment, seed=cfg.seed)
    model.augment_generator = torch.Generator(device)
    lora = "lora" in cfg.training.learns
    # The decoder's own weights are loaded under their plain names, before there are adapters.
    later = start is not None and "decoder" in read_info(start).parts
    if lora and not later:
        _add_adapters(model, cfg)
    if start is not None:
        load_weights(model, start, trainable_adapter=lora)
    if lora and model.decoder is model.causal_lm:
        _add_adapters(model, cfg)
    model.decoder_changed = model.decoder_changed or "decoder" in cfg.training.learns
    return model


def _add_adapters(model: SpeechModel, cfg: Config) -> None:
    """Add fresh adapters, the same in every process and run with this seed."""
    with torch.random.fork_rng():
        torch.manual_seed(cfg.seed)
        model.decoder = add_lora(model.causal_lm, **asdict(cfg.model.lora))


def find_data(cfg: Config) -> Sources:
    """Open the data's sources, before the model: a wrong path should not take minutes to show."""
    return open_data(
        {name: asdict(source) for name, source in cfg.data.train.items()},
        {name: asdict(source) for name, source in cfg.data.eval.items()},
        holdout=cfg.data.holdout,
        weights=cfg.data.weights,
    )


def find_augmentation(cfg: Config) -> Augmenter | None:
    """Open the noises and rooms of the augmentation, as early as the data; None: there is none."""
    augment = open_augmenter(
        asdict(cfg.data.augment),
        seed=cfg.seed,
        min_seconds=cfg.data.min_seconds,
        max_seconds=cfg.data.max_seconds
        if cfg.training.batch_seconds == AUTO
        else min(cfg.data.max_seconds, cfg.training.batch_seconds),
    )
    if augment is not None and cfg.data.cache_encoder is not None:
        augment.repeats = cfg.data.cache_variants  # what is never heard again is of no use there
    return augment


def settle_budget(
    cfg: Config, model: SpeechModel, accelerator: Accelerator, resumed: Path | None
) -> str | None:
    """Put a number in place of ``auto``: that of the checkpoint, or what fits; what to say."""
    if cfg.training.batch_seconds == AUTO and resumed is not None:
        cfg.training.batch_seconds = read_config(resumed).training.batch_seconds
        return f"training.batch_seconds=auto: {cfg.training.batch_seconds:g} s, as before"
    cfg.training.batch_seconds, said = choose_budget(cfg, model, accelerator)
    return said


def make_data(
    cfg: Config,
    sources: Sources,
    augment: Augmenter | None,
    model: SpeechModel,
    accelerator: Accelerator,
    resumed: Path | None,
    audio_tokens: Callable[[int], int] | None = None,
) -> tuple[TrainingStream, HeldOut, RejectCounts]:
    """Training batches of this process, the held-out set, and what all rejected of the latter.

    ``resumed``: the checkpoint that the run goes on from, None for a new run. ``audio_tokens``:
    samples to audio tokens, where several projectors are to have some; None: the model's.
    """
    data, training = cfg.data, cfg.training
    train_sources, eval_sources = sources
    common: dict[str, Any] = {
        "prompt": model.prompt,
        "audio_tokens": audio_tokens or model.audio_tokens,
        "rules": label_rules(data.labels),
        "min_seconds": data.min_seconds,
        "max_seconds": data.max_seconds,
        "max_label_tokens": data.max_label_tokens,
        "num_workers": data.num_workers,
    }
    log = RejectLog(Path(cfg.output_dir), accelerator.process_index)
    if resumed is not None:
        log.continue_from(resumed.parent.parent)
    rejects, held_out = RejectCounts(), HeldOut({}, ())
    if eval_sources and training.eval_steps > 0:
        held_out = _hear_held_out(eval_sources, rejects, accelerator, common)
    stream = TrainingStream(
        train_sources,
        [source.weight for source in train_sources],
        batch_seconds=training.batch_seconds,
        max_utterances=training.max_utterances,
        pool=data.pool,
        seed=cfg.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        quality=quality_limits(data),
        augment=augment,
        log=log,
        repeat=data.exhausted == "repeat",
        **common,
    )
    return stream, held_out, rejects


def _hear_held_out(
    sources: list[Source], rejects: RejectCounts, accelerator: Accelerator, common: dict[str, Any]
) -> HeldOut:
    """Each process decodes its share; what all of them rejected is added to ``rejects``."""
    own = RejectCounts()
    rank, processes = accelerator.process_index, accelerator.num_processes
    mine = eval_utterances(sources, rejects=own, rank=rank, world_size=processes, **common)
    for counts in gather_object([own]):
        rejects.merge(counts)
    held_out = HeldOut(mine, tuple(sorted(gather_object(list(mine)))))
    if not len(held_out):
        why = "; ".join(line.strip() for line in rejects.summary()) or "it is empty"
        raise DataError(f"No sample of the evaluation data can be used: {why}.")
    return held_out


def _netrc_has_wandb() -> bool:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return path.is_file() and "wandb" in path.read_text(errors="replace")


def _flat(values: Any, prefix: str = "") -> Mapping[str, Any]:
    """Nested settings as one table of plain values, which is what TensorBoard can show."""
    if not isinstance(values, dict):
        plain = values if isinstance(values, bool | int | float | str) else str(values)
        return {prefix: plain}
    rows: dict[str, Any] = {}
    for key, value in values.items():
        rows.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return rows
