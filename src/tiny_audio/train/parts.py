"""Data and model of a run: what several runs may share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from tiny_audio.config import Config
from tiny_audio.data.rejects import RejectCounts
from tiny_audio.model.resolve import find_checkpoint as find_weights
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.ahead import Ahead
from tiny_audio.train.cache import open_cache
from tiny_audio.train.compiling import compile_layers
from tiny_audio.train.evaluation import HeldOut
from tiny_audio.train.first_labels import look_at_labels
from tiny_audio.train.pace import Data, Frames
from tiny_audio.train.progress import LineDisplay, open_display
from tiny_audio.train.saving import open_store, resume_point
from tiny_audio.train.setup import (
    find_augmentation,
    find_data,
    make_data,
    make_model,
    settle_budget,
)
from tiny_audio.train.stages import apply_learns, checkpoint_decoder


@dataclass(frozen=True)
class Parts:
    """What a run is made of beside its own settings, optimizer and records."""

    model: SpeechModel
    stream: Data
    held_out: HeldOut
    eval_rejects: RejectCounts
    display: LineDisplay
    frames: Frames | None  # the encoder's, where they do not come from the model itself
    resumed: Path | None


def gather_parts(cfg: Config, accelerator: Accelerator) -> Parts:
    """Open the data and build the model of a run that is alone."""
    folder = Path(cfg.output_dir)
    resumed = resume_point(cfg, open_store(cfg, folder), folder)
    sources, augment = find_data(cfg), find_augmentation(cfg)
    first = cfg.model.init_from
    start = resumed or (find_weights(first) if first is not None else None)
    model = make_model(cfg, accelerator.device, start)
    apply_learns(model, cfg.training.learns)
    if cfg.training.gradient_checkpointing:
        checkpoint_decoder(model.causal_lm)
    display = open_display(live=cfg.training.progress, max_steps=cfg.training.max_steps)
    say = display.say if accelerator.is_main_process else _say_nothing
    if cfg.training.torch_compile:
        compile_layers(model, say)
    if said := settle_budget(cfg, model, accelerator, resumed):
        say(said)
    look_at_labels(cfg, sources, model, accelerator, resumed, say)
    stream, held_out, rejects = make_data(cfg, sources, augment, model, accelerator, resumed)
    frames = open_cache(cfg, model, accelerator, sources[0], say)
    ahead = Ahead(stream, accelerator.device, upload=frames is None)
    return Parts(model, ahead, held_out, rejects, display, frames, resumed)


def _say_nothing(text: str) -> None:
    pass
