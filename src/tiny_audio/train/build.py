"""`tiny-audio train`: puts a run together, from a configuration to a trained model on disk."""

from __future__ import annotations

import importlib.util
import shlex
import signal
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from omegaconf import OmegaConf

from tiny_audio import logs
from tiny_audio.audio.features import SpecAugment
from tiny_audio.config import Config
from tiny_audio.data.augment import Augmenter, open_augmenter
from tiny_audio.data.loader import TrainingStream
from tiny_audio.data.prepare import label_rules, quality_limits
from tiny_audio.data.records import Source
from tiny_audio.data.rejects import RejectCounts, RejectLog
from tiny_audio.data.sources import open_data
from tiny_audio.errors import ConfigError, MissingExtraError
from tiny_audio.model.build import build_model
from tiny_audio.model.checkpoint import find_checkpoint as find_weights
from tiny_audio.model.checkpoint import (
    load_weights,
    read_config,
    read_info,
    save_checkpoint,
    take_revisions,
)
from tiny_audio.model.decoder import embedding_rms
from tiny_audio.model.lora import add_lora
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.scoring import get_rule
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
    check_stage,
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
        self.cache = None
        if cfg.data.cache_encoder is not None:
            self.cache = open_cache(
                cfg.data.cache_encoder,
                self.model,
                train_sources,
                encoder=cfg.model.encoder,
                variants=cfg.data.cache_variants,
                autocast=accelerator.autocast,
                mixed_precision=accelerator.mixed_precision,
                say=self._say,
            )
        self.stream = Prefetcher(stream, accelerator.device, upload=self.cache is None)

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
            to_device=self.cache or self.stream.to_device,
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
        self._say(
            f"Learns: {parts}; {sum(counts.values()):,} of {every:,} parameters, the others are "
            "frozen"
        )
        held = f"Held out for evaluation: {held_out} utterances"
        self._say(held if held_out else "No evaluation data")
        if resumed is not None:
            self._say(f"Goes on from {resumed}, after step {self.first_step}")

    def _say_ending(self, summary: RunSummary, argv: Sequence[str] | None) -> None:
        """Show the result, where it is and what to type next."""
        lines = [*summary.rejects.summary(), *self.report.usage(summary.steps, self.stream.usage)]
        if self.cache is not None:
            lines.append(self.cache.summary())
        if summary.interrupted is not None:
            number = summary.interrupted
            by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            command = resume_command(self.folder, argv, self.accelerator.num_processes)
            lines += [
                f"Stopped by {by} after step {summary.steps}; everything is saved. Go on with:",
                f"  {command}",
            ]
        else:
            if summary.steps < self.cfg.training.max_steps and not self.report.stale:
                lines.append(
                    "All data was heard once; more steps were planned (data.exhausted=stop)"
                )
            score = "" if summary.wer is None else f"; WER {summary.wer:.1%}"
            steps = summary.steps - self.first_step
            lines += [
                f"Trained {steps} steps in {duration(summary.seconds)}{score}",
                f"Curves: {self.folder / PICTURE}; every figure: {self.folder / METRICS}",
            ]
            start = self.report.unbeaten_start(self.cfg.model.init_from)
            if start is not None:
                lines.append(f"No checkpoint is better than {start}: keep that")
            worse = "" if start is None else " (no better than the start)"
            if summary.best is not None:
                lines += [
                    f"Best checkpoint: {summary.best}{worse}",
                    f"Next: tiny-audio transcribe FILE --model {shlex.quote(str(self.folder))}",
                ]
        for line in lines:
            self._say(line)


# ------------------------------------------------------------------------- the parts of a run


def check_settings(cfg: Config) -> None:
    """Raise ConfigError for a value that no part further down would notice in time."""
    t, data = cfg.training, cfg.data
    for key, value, known in (
        ("training.precision", t.precision, ("auto", "bf16", "fp32")),
        ("training.report_to", t.report_to, (None, "wandb", "tensorboard")),
        ("training.metric_for_best_model", t.metric_for_best_model, ("wer", "loss")),
        ("data.exhausted", data.exhausted, ("repeat", "stop")),
    ):
        if value not in known:
            names = ", ".join("null" if name is None else name for name in known)
            raise ConfigError(f"{key}={value}: use one of {names}")
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
    if data.cache_variants < 1:
        raise ConfigError(f"data.cache_variants={data.cache_variants}: must be 1 or more")
    get_rule(cfg.evaluation.scoring)
    quality_limits(data)
    if t.report_to is not None and importlib.util.find_spec(t.report_to) is None:
        raise MissingExtraError(
            f"training.report_to={t.report_to}: not installed; pip install 'tiny-audio[track]'"
        )
    resumes = t.resume_from_checkpoint is not None
    start = t.resume_from_checkpoint if resumes else cfg.model.init_from
    check_stage(t.learns, requires_init=t.requires_init, init_from=start)


def find_data(cfg: Config) -> tuple[list[Source], list[Source]]:
    """Open the sources to learn from and those to evaluate on."""
    return open_data(
        {name: asdict(source) for name, source in cfg.data.train.items()},
        {name: asdict(source) for name, source in cfg.data.eval.items()},
        holdout=cfg.data.holdout,
        weights=cfg.data.weights,
    )


def find_augmentation(cfg: Config) -> Augmenter | None:
    """Open the noises and rooms of the augmentation; None: there is none."""
    longest, budget = cfg.data.max_seconds, cfg.training.batch_seconds
    augment = open_augmenter(
        asdict(cfg.data.augment),
        seed=cfg.seed,
        min_seconds=cfg.data.min_seconds,
        max_seconds=longest if budget == AUTO else min(longest, budget),
    )
    if augment is not None and cfg.data.cache_encoder is not None:
        augment.repeats = cfg.data.cache_variants  # what is never heard again is of no use there
    return augment


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


def data_limits(cfg: Config, model: SpeechModel) -> dict[str, Any]:
    """What training and evaluation data have in common."""
    data = cfg.data
    return {
        "prompt": model.prompt,
        "audio_tokens": model.audio_tokens,
        "rules": label_rules(data.labels),
        "min_seconds": data.min_seconds,
        "max_seconds": data.max_seconds,
        "max_label_tokens": data.max_label_tokens,
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
        quality=quality_limits(cfg.data),
        augment=augment,
        log=log,
        repeat=cfg.data.exhausted == "repeat",
        **data_limits(cfg, model),
    )
