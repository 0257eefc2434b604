"""`tiny-audio train`: puts a run together, from a configuration to a trained model on disk."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from omegaconf import OmegaConf

from tiny_audio import logs
from tiny_audio.config import Config
from tiny_audio.data.mixture import Usage
from tiny_audio.data.records import RejectCounts
from tiny_audio.model.checkpoint import find_checkpoint as find_weights
from tiny_audio.model.checkpoint import read_config, save_checkpoint
from tiny_audio.train.checkpoints import (
    CheckpointStore,
    read_state,
    restore_optimizer,
    restore_rng,
    resume_point,
    rng_state,
    write_state,
)
from tiny_audio.train.components import (
    check_settings,
    data_limits,
    find_augmentation,
    find_data,
    make_model,
    make_stream,
)
from tiny_audio.train.distributed import (
    close_accelerator,
    open_accelerator,
    shard,
    whole_state,
    whole_weights,
)
from tiny_audio.train.encoder_cache import open_cache
from tiny_audio.train.evaluation import (
    Evaluation,
    HeldOut,
    check_first_labels,
    evaluate_held_out,
    load_held_out,
)
from tiny_audio.train.loop import Prefetcher, Trainer
from tiny_audio.train.memory import AUTO, choose_budget
from tiny_audio.train.metrics import METRICS, PICTURE, Bar, Reporter, duration, start_tracker
from tiny_audio.train.stages import (
    apply_learns,
    checkpoint_decoder,
    compile_layers,
    parameter_groups,
)


@dataclass(frozen=True)
class RunSummary:
    """How a run ended. ``interrupted`` is the signal that ended it early, if one did."""

    steps: int
    seconds: float
    best: Path | None
    last: Path | None
    wer: float | None  # of the newest evaluation, if there was one
    rejects: RejectCounts
    interrupted: int | None = None

    @property
    def exit_code(self) -> int:
        """0, or as a shell counts: 130 after Ctrl-C, 143 after SIGTERM."""
        return 0 if self.interrupted is None else 128 + self.interrupted


def train(cfg: Config, *, argv: Sequence[str] | None = None) -> RunSummary:
    """Train as configured, until ``training.max_steps`` or an interruption.

    ``argv`` is the command line that was typed, for the advice on how to go on. Raises
    TinyAudioError for whatever the user can mend; DivergedError if the loss is not finite.
    """
    check_settings(cfg)
    accelerator = open_accelerator(
        cfg.device, cfg.training.precision, cfg.output_dir, tracker=cfg.training.report_to
    )
    try:
        # The main process's: its name may hold the time, which differs by process.
        cfg.output_dir = broadcast_object_list([cfg.output_dir])[0]
        set_seed(cfg.seed % 2**31, device_specific=True)
        writes = accelerator.is_main_process
        with logs.to_file(Path(cfg.output_dir)) if writes else nullcontext():
            return Run(cfg, accelerator).train(argv)
    finally:
        close_accelerator(accelerator)


class Run:
    """One run: everything is built in ``__init__``, in order; ``train`` starts the loop.

    ``cfg`` is checked; its ``auto`` values are replaced by what is chosen.
    """

    def __init__(self, cfg: Config, accelerator: Accelerator) -> None:
        self.cfg, self.accelerator = cfg, accelerator
        training, labels, init_from = cfg.training, cfg.data.labels, cfg.model.init_from
        self.folder = Path(cfg.output_dir)
        self.report = Reporter(
            accelerator,
            self.folder,
            Bar(training.max_steps, live=training.progress),
            metric=training.metric_for_best_model,
            patience=training.early_stopping_patience,
            from_scratch=init_from is None,
        )
        self.say = self.report.say
        self.store = CheckpointStore(self.folder / "checkpoints", keep=training.save_total_limit)
        resumed = resume_point(training.resume_from_checkpoint, self.store, self.folder)
        before = None if resumed is None else read_config(resumed)

        # Data first: a wrong path should not take as long as a model to show.
        train_sources, eval_sources = find_data(cfg)
        augment = find_augmentation(cfg)
        start = resumed or (None if init_from is None else find_weights(init_from))
        self.model = model = make_model(cfg, accelerator.device, start)
        learning = apply_learns(model, training.learns)
        if training.gradient_checkpointing:
            checkpoint_decoder(model.causal_lm)
        if training.torch_compile:
            compile_layers(model, self.say)
        if training.batch_seconds == AUTO:
            if before is not None:
                seconds, how = before.training.batch_seconds, "as before"
            else:
                seconds, how = choose_budget(model, accelerator, cfg)
            training.batch_seconds = float(seconds)
            self.say(f"training.batch_seconds=auto: {seconds:g} s ({how})")
        if before is None:
            check_first_labels(labels, train_sources, eval_sources, model, accelerator, self.say)
        elif labels.case == AUTO:
            labels.case, labels.case_of = before.data.labels.case, before.data.labels.case_of
        self.held_out: HeldOut | None = None
        self.rejects = RejectCounts()
        if eval_sources and training.eval_steps > 0:
            limits = data_limits(cfg, model)
            self.held_out = load_held_out(eval_sources, accelerator, self.rejects, **limits)
        self.data = make_stream(cfg, train_sources, augment, model, accelerator, resumed)
        self.cache = open_cache(cfg, model, accelerator, train_sources, self.say)
        pin = accelerator.device.type == "cuda" and not self.cache
        self.stream = Prefetcher(self.data, pin=pin)

        assert model.augment_generator is not None
        self.augment_rng = model.augment_generator.manual_seed(cfg.seed + accelerator.process_index)
        self.trainer = self._trainer()
        if resumed is not None:
            self._restore(resumed)
        self.first_step = self.trainer.step
        self._say_beginning(learning, resumed)

    def train(self, argv: Sequence[str] | None) -> RunSummary:
        """Run the loop between its first and last lines."""
        began = time.perf_counter()
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(OmegaConf.structured(self.cfg), self.folder / "config.yaml")
        start_tracker(self.accelerator, self.cfg, self.folder)
        with self.report.bar:
            interrupted = self.trainer.run()
        self.report.draw()
        evals = self.report.evaluations
        for counts in gather_object([self.data.rejects]):
            self.rejects.merge(counts)
        summary = RunSummary(
            steps=self.trainer.step,
            seconds=time.perf_counter() - began,
            best=self.store.best,
            last=self.store.last,
            wer=evals[-1]["wer"] if evals else None,
            rejects=self.rejects,
            interrupted=interrupted,
        )
        self._say_ending(summary, argv)
        return summary

    def _trainer(self) -> Trainer:
        t = self.cfg.training
        groups = parameter_groups(self.model, t)
        fused = True if self.accelerator.device.type == "cuda" else None  # one kernel for all
        optimizer = torch.optim.AdamW(groups, betas=(t.adam_beta1, t.adam_beta2), fused=fused)
        return Trainer(
            t,
            accelerator=self.accelerator,
            model=self.model,
            optimizer=shard(self.accelerator, self.model, optimizer),
            stream=self.stream,
            report=self.report,
            evaluate=self._evaluate if self.held_out else None,
            save=self._save,
            to_device=self.cache or (lambda batch: batch.to(self.accelerator.device)),
            evaluate_start=self.cfg.model.init_from is not None,
        )

    def _evaluate(self) -> Evaluation:
        assert self.held_out is not None
        with whole_weights(self.model):
            return evaluate_held_out(self.model, self.accelerator, self.held_out, self.cfg)

    def _save(self, trainer: Trainer, evaluation: Evaluation | None) -> None:
        """Write a checkpoint of all processes' state, from the main one; all must call it.

        Raises:
            CheckpointError: the disk refuses; earlier checkpoints are whole.
        """
        mine = {"data": self.stream.state_dict(), "rng": rng_state(self.augment_rng)}
        state = {**whole_state(trainer.state_dict()), "processes": gather_object([mine])}
        wer, loss = (evaluation.wer, evaluation.loss) if evaluation else (None, None)
        metadata = {"step": trainer.step, "epoch": self.stream.epoch, "wer": wer, "eval_loss": loss}
        extra = partial(write_state, state)
        write = partial(
            save_checkpoint, self.model, config=self.cfg, metadata=metadata, extra=extra
        )
        best = evaluation is not None and self.report.is_best()
        with whole_weights(self.model):
            if self.accelerator.is_main_process:
                self.store.save(trainer.step, write, best=best)
            self.accelerator.wait_for_everyone()

    def _restore(self, folder: Path) -> None:
        """Take over a checkpoint's state; the model was built with its weights already."""
        learns, processes = self.cfg.training.learns, self.accelerator.num_processes
        state = read_state(folder, learns=learns, processes=processes)
        self.trainer.load_state_dict(state)
        restore_optimizer(self.trainer.optimizer, state["optimizer"])
        mine = state["processes"][self.accelerator.process_index]
        self.data.load_state_dict(mine["data"])
        restore_rng(mine["rng"], self.augment_rng)

    def _say_beginning(self, learning: dict[str, int], resumed: Path | None) -> None:
        processes, mixed = self.accelerator.num_processes, self.accelerator.mixed_precision
        where = f"{self.accelerator.device}, {'bf16' if mixed == 'bf16' else 'fp32'}"
        where += f", {processes} processes" if processes > 1 else ""
        parts = ", ".join(f"{part} ({count:,})" for part, count in learning.items())
        every = sum(p.numel() for p in self.model.parameters())
        count = 0 if self.held_out is None else len(self.held_out.numbers)
        self.say(f"Run {self.folder} on {where}")
        self.say(f"Learns: {parts} of {every:,} parameters, the others are frozen")
        self.say(f"Held out for evaluation: {count or 'no'} utterances")
        if resumed is not None:
            self.say(f"Goes on from {resumed}, after step {self.first_step}")

    def _say_ending(self, summary: RunSummary, argv: Sequence[str] | None) -> None:
        """Show what was read, the result, where it is and what to type next."""
        steps, training = summary.steps, self.cfg.training
        usage = Usage.from_dict(self.stream.state_dict()["usage"])
        lines = [*summary.rejects.summary(), *self.report.usage(steps, usage)]
        if self.cache is not None:
            lines.append(self.cache.summary())
        if summary.interrupted is not None:
            name = signal.Signals(summary.interrupted).name.replace("SIGINT", "Ctrl-C")
            command = resume_command(self.folder, argv, self.accelerator.num_processes)
            lines.append(f"Stopped by {name} after step {steps}; everything is saved. Go on with:")
            self.say("\n".join([*lines, f"  {command}"]))
            return
        if self.report.stale:
            lines.append(
                "Ended early: no better evaluation within training.early_stopping_patience="
                f"{training.early_stopping_patience}; the best checkpoint is kept"
            )
        elif steps < training.max_steps:
            lines.append("All data was heard once; more steps were planned (data.exhausted=stop)")
        score = "" if summary.wer is None else f"; WER {summary.wer:.1%}"
        took = duration(summary.seconds)
        lines.append(f"Trained {steps - self.first_step} steps in {took}{score}")
        lines.append(f"Curves: {self.folder / PICTURE}; every figure: {self.folder / METRICS}")
        if start := self.report.unbeaten_start(self.cfg.model.init_from):
            lines.append(f"No checkpoint is better than {start}: keep that")
        if summary.best is not None:
            lines.append(f"Best checkpoint: {summary.best}")
            model = shlex.quote(str(self.folder))
            lines.append(f"Next: tiny-audio transcribe FILE --model {model}")
        self.say("\n".join(lines))


def resume_command(folder: Path, argv: Sequence[str] | None, processes: int) -> str:
    """The command that was typed, made to go on from the last checkpoint in ``folder``."""
    replaced = "output_dir=", "training.resume_from_checkpoint="
    added = [f"output_dir={folder}", "training.resume_from_checkpoint=last"]
    if argv is None:
        return "train() with the same settings and " + " ".join(added)
    start = [Path(argv[0]).name]
    if processes > 1:
        start = ["accelerate", "launch", f"--num_processes={processes}", "-m", "tiny_audio"]
    elif start == ["__main__.py"]:
        start = ["python", "-m", "tiny_audio"]
    same = [item for item in argv[1:] if not item.lstrip("+").startswith(replaced)]
    return shlex.join([*start, *same, *added])
