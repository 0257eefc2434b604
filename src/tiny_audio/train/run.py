"""`tiny-audio train`: from a configuration to a trained model on disk."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState

from tiny_audio import logs
from tiny_audio.config import Config
from tiny_audio.train.assembly import Run, RunSummary
from tiny_audio.train.parts import gather_parts
from tiny_audio.train.rng import seed_everything
from tiny_audio.train.setup import agree_on_folder, check_settings, open_accelerator
from tiny_audio.train.stages import check_stage

__all__ = ["RunSummary", "train"]


def train(cfg: Config, *, argv: Sequence[str] | None = None) -> RunSummary:
    """Train as configured, until ``training.max_steps`` or an interruption.

    Args:
        cfg: complete and resolved.
        argv: the command line that was typed, for the advice on how to go on; None: no command.

    Raises:
        TinyAudioError: whatever the user can mend; DivergedError if the loss is not finite.
    """
    check_settings(cfg)
    training = cfg.training
    resumes = training.resume_from_checkpoint is not None
    check_stage(
        training.learns,
        requires_init=training.requires_init,
        init_from=training.resume_from_checkpoint if resumes else cfg.model.init_from,
    )
    accelerator = open_accelerator(cfg)
    try:
        cfg.output_dir = str(agree_on_folder(accelerator, cfg.output_dir))
        seed_everything(cfg.seed, accelerator.process_index)
        writes = accelerator.is_main_process
        with logs.to_file(Path(cfg.output_dir)) if writes else nullcontext():
            return Run(cfg, accelerator, gather_parts(cfg, accelerator)).train(argv)
    finally:
        # What wraps the model holds the process group; threads of a group that outlives the
        # interpreter abort the process at its very end.
        accelerator.free_memory()
        gc.collect()
        accelerator.end_training()
        # Accelerate's state is global: without this a second run could not choose its precision.
        GradientState._reset_state()
        AcceleratorState._reset_state(reset_partial_state=True)
