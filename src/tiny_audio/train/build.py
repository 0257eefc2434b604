"""`tiny-audio train`: puts a run together, from a configuration to a trained model on disk."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from omegaconf import OmegaConf

from tiny_audio import logs
from tiny_audio.config import Config
from tiny_audio.data.rejects import RejectCounts
from tiny_audio.model.checkpoint import find_checkpoint as find_weights
from tiny_audio.model.checkpoint import read_config, save_checkpoint
from tiny_audio.model.decoder import embedding_rms
from tiny_audio.train.cached_features import open_cache
from tiny_audio.train.checkpoints import (
    CheckpointStore,
    read_state,
    restore_optimizer,
    restore_rng,
    resume_point,
    rng_state,
    seed_everything,
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
from tiny_audio.train.display import Display, duration, resume_command
from tiny_audio.train.distributed import (
    LossModule,
    close_accelerator,
    configure_fsdp,
    open_accelerator,
    whole_state,
    whole_weights,
)
from tiny_audio.train.evaluation import Evaluation, HeldOut, evaluate_held_out, load_held_out
from tiny_audio.train.first_labels import check_first_labels
from tiny_audio.train.loop import Trainer
from tiny_audio.train.memory import AUTO, choose_budget
from tiny_audio.train.metrics import METRICS, PICTURE, Reporter, start_tracker
from tiny_audio.train.prefetch import Prefetcher
from tiny_audio.train.stages import (
    apply_learns,
    checkpoint_decoder,
    compile_layers,
    parameter_groups,
)


@dataclass(frozen=True)
class RunSummary:
    """How a run ended. ``interrupted`` is the signal that ended it early, if one did."""

    output_dir: Path
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

    Args:
        cfg: complete and resolved.
        argv: the command line that was typed, for the advice on how to go on; None: no command.

    Raises:
        TinyAudioError: whatever the user can mend; DivergedError if the loss is not finite.
    """
    check_settings(cfg)
    accelerator = open_accelerator(
        cfg.device, cfg.training.precision, cfg.output_dir, tracker=cfg.training.report_to
    )
    try:
        # The main process's: its name may hold the time, which differs by process.
        cfg.output_dir = broadcast_object_list([cfg.output_dir])[0]
        seed_everything(cfg.seed, accelerator.process_index)
        writes = accelerator.is_main_process
        with logs.to_file(Path(cfg.output_dir)) if writes else nullcontext():
            return Run(cfg, accelerator).train(argv)
    finally:
        close_accelerator(accelerator)


class Run:
    """One run: everything is built in ``__init__``, in order; ``train`` starts the loop.

    Args:
        cfg: checked; ``auto`` values are replaced by what was chosen.
        accelerator: processes, devices and number format.
    """

    def __init__(self, cfg: Config, accelerator: Accelerator) -> None:
        self.cfg, self.accelerator = cfg, accelerator
        training = cfg.training
        self.folder = Path(cfg.output_dir)
        self.display = Display(training.max_steps, live=training.progress)
        self.store = CheckpointStore(
            self.folder / "checkpoints",
            keep=training.save_total_limit,
            metric=training.metric_for_best_model,
        )
        resumed = resume_point(training.resume_from_checkpoint, self.store, self.folder)

        # Data first: a wrong path should not take as long as a model to show.
        train_sources, eval_sources = find_data(cfg)
        augment = find_augmentation(cfg)
        first = cfg.model.init_from
        start = resumed or (find_weights(first) if first is not None else None)
        self.model = make_model(cfg, accelerator.device, start)
        self.learning = apply_learns(self.model, training.learns)
        if training.gradient_checkpointing:
            checkpoint_decoder(self.model.causal_lm)
        if training.torch_compile:
            compile_layers(self.model, self._say)
        self._settle_budget(resumed)
        labels = cfg.data.labels
        if resumed is None:
            check_first_labels(
                labels, train_sources, eval_sources, self.model, accelerator, self._say
            )
        elif labels.case == AUTO:
            before = read_config(resumed).data.labels
            labels.case, labels.case_of = before.case, before.case_of
        self.eval_rejects, self.held_out = RejectCounts(), HeldOut({}, ())
        if eval_sources and training.eval_steps > 0:
            limits = data_limits(cfg, self.model)
            self.held_out = load_held_out(eval_sources, accelerator, self.eval_rejects, **limits)
        stream = make_stream(cfg, train_sources, augment, self.model, accelerator, resumed)
        self.cache = open_cache(cfg, self.model, accelerator, train_sources, self._say)
        self.stream = Prefetcher(stream, pin=accelerator.device.type == "cuda" and not self.cache)

        assert self.model.augment_generator is not None
        self.model.augment_generator.manual_seed(cfg.seed + accelerator.process_index)
        self.generators = {"spec_augment": self.model.augment_generator}  # as they are saved
        self.report = Reporter(
            accelerator,
            self.folder,
            self.display,
            metric=training.metric_for_best_model,
            patience=training.early_stopping_patience,
            embedding_rms=embedding_rms(self.model.causal_lm),
            from_scratch=cfg.model.init_from is None,
        )
        self.trainer = self._trainer()
        if resumed is not None:
            self._restore(resumed)
        self.first_step = self.trainer.step
        self._say_beginning(resumed)

    def train(self, argv: Sequence[str] | None) -> RunSummary:
        """Run the loop between its first and last lines."""
        began = time.perf_counter()
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(OmegaConf.structured(self.cfg), self.folder / "config.yaml")
        start_tracker(self.accelerator, self.cfg, self.folder)
        with self.display:
            interrupted = self.trainer.run()
        self.report.finish()
        summary = self._summary(time.perf_counter() - began, interrupted)
        self._say_ending(summary, argv)
        return summary

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            self.display.say(text)

    def _settle_budget(self, resumed: Path | None) -> None:
        """Put a number in place of ``training.batch_seconds=auto``."""
        training = self.cfg.training
        if training.batch_seconds != AUTO:
            training.batch_seconds = float(training.batch_seconds)
            return
        if resumed is not None:
            training.batch_seconds = read_config(resumed).training.batch_seconds
            self._say(f"training.batch_seconds=auto: {training.batch_seconds:g} s, as before")
            return
        training.batch_seconds, how = choose_budget(
            self.model,
            self.accelerator,
            training.learns,
            max_seconds=self.cfg.data.max_seconds,
            max_utterances=training.max_utterances,
        )
        self._say(f"training.batch_seconds=auto: {training.batch_seconds:.0f} s ({how})")

    def _trainer(self) -> Trainer:
        t = self.cfg.training
        groups = parameter_groups(
            self.model,
            lr={
                "projector": t.learning_rate,
                "lora": t.lora_learning_rate,
                "decoder": t.decoder_learning_rate,
            },
            weight_decay={
                "projector": t.weight_decay,
                "lora": t.lora_weight_decay,
                "decoder": t.decoder_weight_decay,
            },
        )
        fused = True if self.accelerator.device.type == "cuda" else None  # one kernel for all
        optimizer = torch.optim.AdamW(groups, betas=(t.adam_beta1, t.adam_beta2), fused=fused)
        module = LossModule(self.model)
        configure_fsdp(self.accelerator, module)
        module, optimizer = self.accelerator.prepare(module, optimizer)
        return Trainer(
            t,
            accelerator=self.accelerator,
            module=module,
            model=self.model,
            optimizer=optimizer,
            stream=self.stream,
            report=self.report,
            evaluate=self._evaluate if self.held_out else None,
            save=self._save,
            to_device=self.cache or (lambda batch: batch.to(self.accelerator.device)),
            evaluate_start=self.cfg.model.init_from is not None,
        )

    def _evaluate(self) -> Evaluation:
        with whole_weights(self.model):
            return evaluate_held_out(
                self.model,
                self.accelerator,
                self.held_out,
                settings=self.cfg.evaluation,
                transcribed=self.cfg.training.eval_utterances,
                shown=self.cfg.training.show_examples,
            )

    def _save(self, trainer: Trainer, evaluation: Evaluation | None) -> None:
        """Write a checkpoint of all processes' state, from the main one; all must call it.

        Raises:
            CheckpointError: the disk refuses; earlier checkpoints are whole.
        """
        mine = {"data": self.stream.state_dict(), "rng": rng_state(self.generators)}
        state = {**whole_state(dict(trainer.state_dict())), "processes": gather_object([mine])}
        wer, loss = (evaluation.wer, evaluation.loss) if evaluation else (None, None)
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

    def _restore(self, folder: Path) -> None:
        """Take over a checkpoint's state; the model was built with its weights already."""
        learns, processes = self.cfg.training.learns, self.accelerator.num_processes
        state = read_state(folder, learns=learns, processes=processes)
        self.trainer.load_state_dict(state)
        restore_optimizer(self.trainer.optimizer, state["optimizer"])
        mine = state["processes"][self.accelerator.process_index]
        self.stream.load_state_dict(mine["data"])
        restore_rng(mine["rng"], self.generators)

    def _summary(self, seconds: float, interrupted: int | None) -> RunSummary:
        evals = self.report.evaluations
        rejects = self.eval_rejects.copy()
        for counts in gather_object([self.stream.rejects]):
            rejects.merge(counts)
        return RunSummary(
            output_dir=self.folder,
            steps=self.trainer.step,
            seconds=seconds,
            best=self.store.best,
            last=self.store.last,
            wer=evals[-1]["wer"] if evals else None,
            rejects=rejects,
            interrupted=interrupted,
        )

    def _say_beginning(self, resumed: Path | None) -> None:
        accelerator, counts = self.accelerator, self.learning
        precision = "bf16" if accelerator.mixed_precision == "bf16" else "fp32"
        processes = accelerator.num_processes
        several = f", {processes} processes" if processes > 1 else ""
        parts = ", ".join(f"{part} ({count:,})" for part, count in counts.items())
        every, held_out = sum(p.numel() for p in self.model.parameters()), len(self.held_out)
        self._say(f"Run {self.folder} on {accelerator.device}, {precision}{several}")
        learns = f"Learns: {parts}; {sum(counts.values()):,} of {every:,} parameters"
        self._say(f"{learns}, the others are frozen")
        evaluation = f"Held out for evaluation: {held_out} utterances"
        self._say(evaluation if held_out else "No evaluation data")
        if resumed is not None:
            self._say(f"Goes on from {resumed}, after step {self.first_step}")

    def _say_ending(self, summary: RunSummary, argv: Sequence[str] | None) -> None:
        """Show what was read, the result, where it is and what to type next."""
        lines = [*summary.rejects.summary(), *self.report.usage(summary.steps, self.stream.usage)]
        if self.cache is not None:
            lines.append(self.cache.summary())
        steps, number = summary.steps, summary.interrupted
        if number is not None:
            by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            command = resume_command(self.folder, argv, self.accelerator.num_processes)
            lines.append(f"Stopped by {by} after step {steps}; everything is saved. Go on with:")
            lines.append(f"  {command}")
        else:
            if steps < self.cfg.training.max_steps and not self.report.stale:
                lines.append(
                    "All data was heard once; more steps were planned (data.exhausted=stop)"
                )
            score = "" if summary.wer is None else f"; WER {summary.wer:.1%}"
            took = duration(summary.seconds)
            lines.append(f"Trained {steps - self.first_step} steps in {took}{score}")
            lines.append(f"Curves: {self.folder / PICTURE}; every figure: {self.folder / METRICS}")
            start, worse = self.report.unbeaten_start(self.cfg.model.init_from), ""
            if start is not None:
                lines.append(f"No checkpoint is better than {start}: keep that")
                worse = " (no better than the start)"
            if summary.best is not None:
                folder = shlex.quote(str(self.folder))
                lines.append(f"Best checkpoint: {summary.best}{worse}")
                lines.append(f"Next: tiny-audio transcribe FILE --model {folder}")
        for line in lines:
            self._say(line)
