"""A run's checkpoints: where it starts from, how they are written, how it goes on from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from tiny_audio.config import Config
from tiny_audio.errors import ConfigError
from tiny_audio.model.checkpoint import save_checkpoint
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.checkpoints import CheckpointStore, find_checkpoint
from tiny_audio.train.evaluation import Checkup
from tiny_audio.train.loop import Trainer
from tiny_audio.train.pace import Data
from tiny_audio.train.resume import (
    collect_state,
    read_state,
    restore_optimizer,
    restore_process,
    write_state,
)
from tiny_audio.train.sharding import whole_weights


def open_store(cfg: Config, folder: Path) -> CheckpointStore:
    """The checkpoints of the run in ``folder``."""
    training = cfg.training
    return CheckpointStore(
        folder / "checkpoints",
        keep=training.save_total_limit,
        metric=training.metric_for_best_model,
    )


def resume_point(cfg: Config, store: CheckpointStore, folder: Path) -> Path | None:
    """The checkpoint to go on from, None for a new run; refuses to mix two runs in one folder.

    Raises:
        ConfigError: ``folder`` holds another run, or later checkpoints than the one to go on from.
        CheckpointError: there is nothing to go on from.
    """
    where = cfg.training.resume_from_checkpoint
    if where is None:
        if store.last is not None:
            raise ConfigError(
                f"output_dir={folder} already holds a run; choose another folder, or go on with "
                "training.resume_from_checkpoint=last"
            )
        return None
    found = find_checkpoint(where, folder)
    if store.last is not None and found.resolve() != store.last.resolve():
        raise ConfigError(
            f"output_dir={folder} holds later checkpoints than {found}, which a run that goes on "
            "from there would spoil; choose another output_dir"
        )
    return found


@dataclass(frozen=True)
class Saver:
    """Writes and reads what a run needs to go on. All processes of a run call it together.

    Args:
        cfg: of the run, kept in each checkpoint.
        store: lists the checkpoints.
        accelerator: of the run.
        model: bare.
        stream: training data of this process.
        generators: the model's own random generators, by name.
    """

    cfg: Config
    store: CheckpointStore
    accelerator: Accelerator
    model: SpeechModel
    stream: Data
    generators: Mapping[str, torch.Generator]

    def save(self, trainer: Trainer, checkup: Checkup | None) -> None:
        """Write a checkpoint of all processes' state, from the main one.

        Raises:
            CheckpointError: the disk refuses; earlier checkpoints are whole.
        """
        state = collect_state(trainer.state_dict(), self.accelerator, self.stream, self.generators)
        wer, loss = (checkup.wer, checkup.loss) if checkup else (None, None)
        metadata = {"step": trainer.step, "epoch": self.stream.epoch, "wer": wer, "eval_loss": loss}

        def write(folder: Path) -> None:
            save_checkpoint(
                self.model,
                folder,
                config=self.cfg,
                metadata=metadata,
                extra=lambda part: write_state(state, part),
            )

        with whole_weights(self.model):
            if self.accelerator.is_main_process:
                self.store.save(trainer.step, write, wer=wer, loss=loss)
            self.accelerator.wait_for_everyone()

    def restore(self, trainer: Trainer, folder: Path) -> None:
        """Make the trainer, the data and every random state those of a checkpoint.

        The weights are not touched: the model was built from the same checkpoint.
        """
        state = read_state(
            folder, learns=self.cfg.training.learns, processes=self.accelerator.num_processes
        )
        trainer.load_state_dict(state)
        restore_optimizer(trainer.optimizer, state["optimizer"])
        restore_process(state, self.accelerator, self.stream, self.generators)
