"""The settings, data and model of a run, from its configuration; build.py puts them together."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from tiny_audio.audio.features import SpecAugment
from tiny_audio.config import Config
from tiny_audio.data.augment import Augmenter, open_augmenter
from tiny_audio.data.loader import TrainingStream
from tiny_audio.data.prepare import Preparer, TokenLimits, label_rules, quality_limits
from tiny_audio.data.records import RejectLog, Source
from tiny_audio.data.sources import open_data
from tiny_audio.errors import ConfigError, missing_extra
from tiny_audio.model.build import build_model
from tiny_audio.model.checkpoint import load_weights, take_revisions
from tiny_audio.model.lora import add_lora
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.scoring import get_rule
from tiny_audio.train.memory import AUTO
from tiny_audio.train.stages import check_stage


def check_settings(cfg: Config) -> None:
    """Raise ConfigError for a value that no part further down would notice in time."""
    t, seconds = cfg.training, cfg.training.batch_seconds
    for key, known in (
        ("training.precision", ("auto", "bf16", "fp32")),
        ("training.report_to", ("null", "wandb", "tensorboard")),
        ("training.metric_for_best_model", ("wer", "loss")),
        ("data.exhausted", ("repeat", "stop")),
    ):
        value = attrgetter(key)(cfg)
        if (value or "null") not in known:
            raise ConfigError(f"{key}={value}: use one of {', '.join(known)}")
    counts = ("max_steps", "gradient_accumulation_steps", "logging_steps", "max_utterances")
    for key in (*(f"training.{name}" for name in counts), "data.cache_variants"):
        value = attrgetter(key)(cfg)
        if value <= 0:
            raise ConfigError(f"{key}={value}: must be above 0")
    if cfg.seed < 0:
        raise ConfigError(f"seed={cfg.seed}: must be 0 or more")
    patience = t.early_stopping_patience
    if patience is not None and (patience < 1 or t.eval_steps < 1):
        raise ConfigError(
            f"training.early_stopping_patience={patience}: must be 1 or more, with "
            "training.eval_steps above 0"
        )
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds != AUTO and not (number and seconds > 0):
        raise ConfigError(f"training.batch_seconds={seconds}: must be a number above 0, or {AUTO}")
    get_rule(cfg.evaluation.scoring)
    quality_limits(cfg.data)
    if t.report_to is not None and importlib.util.find_spec(t.report_to) is None:
        raise missing_extra(f"training.report_to={t.report_to} is not installed", "track")
    check_stage(
        t.learns,
        requires_init=t.requires_init,
        init_from=t.resume_from_checkpoint or cfg.model.init_from,
    )


def find_data(cfg: Config) -> tuple[list[Source], list[Source]]:
    """Open the sources to learn from and those to evaluate on."""
    train, held_out = (
        {name: asdict(source) for name, source in part.items()}
        for part in (cfg.data.train, cfg.data.eval)
    )
    return open_data(train, held_out, holdout=cfg.data.holdout, weights=cfg.data.weights)


def find_augmentation(cfg: Config) -> Augmenter | None:
    """Open the noises and rooms of the augmentation; None: there is none."""
    longest, budget = cfg.data.max_seconds, cfg.training.batch_seconds
    cached = cfg.data.cache_encoder is not None  # what is never heard again is of no use there
    return open_augmenter(
        asdict(cfg.data.augment),
        seed=cfg.seed,
        min_seconds=cfg.data.min_seconds,
        max_seconds=longest if budget == AUTO else min(longest, budget),
        repeats=cfg.data.cache_variants if cached else 0,
    )


def make_model(cfg: Config, device: torch.device, start: Path | None) -> SpeechModel:
    """Build the pair, its adapters where they are to learn, and load the weights of ``start``.

    Raises CheckpointError where that belongs to another pair, projector or adapter.
    """
    spec_augment = SpecAugment(**asdict(cfg.training.spec_augment))
    if start is not None:
        take_revisions(cfg.model, start)
    model = build_model(cfg.model, device=device, spec_augment=spec_augment, seed=cfg.seed)
    model.augment_generator = torch.Generator(device)
    lora = asdict(cfg.model.lora) if "lora" in cfg.training.learns else None
    if start is not None:
        load_weights(model, start, lora)
    if lora is not None and model.decoder is model.causal_lm:
        with torch.random.fork_rng():
            torch.manual_seed(cfg.seed)  # the same adapters in every process
            model.decoder = add_lora(model.causal_lm, **lora)
    model.decoder_changed = model.decoder_changed or "decoder" in cfg.training.learns
    return model


def data_limits(cfg: Config, model: SpeechModel, **training: Any) -> dict[str, Any]:
    """What training and evaluation data have in common; ``training``: more for the Preparer."""
    data = cfg.data
    rules = label_rules(data.labels)
    return {
        "preparer": Preparer(rules, data.min_seconds, data.max_seconds, **training),
        "limits": TokenLimits(model.prompt, model.audio_tokens, data.max_label_tokens),
        "num_workers": data.num_workers,
    }


def make_stream(
    cfg: Config,
    sources: list[Source],
    augment: Augmenter | None,
    model: SpeechModel,
    accelerator: Accelerator,
    resumed: Path | None = None,
) -> TrainingStream:
    """Training batches of this process. ``resumed``: the checkpoint that the run goes on from."""
    log = RejectLog(Path(cfg.output_dir), accelerator.process_index)
    if resumed is not None:
        log.continue_from(resumed.parent.parent)
    return TrainingStream(
        sources,
        [source.weight for source in sources],
        batch_seconds=cfg.training.batch_seconds,
        max_utterances=cfg.training.max_utterances,
        pool=cfg.data.pool,
        seed=cfg.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        log=log,
        repeat=cfg.data.exhausted == "repeat",
        **data_limits(cfg, model, quality=quality_limits(cfg.data), augment=augment),
    )
