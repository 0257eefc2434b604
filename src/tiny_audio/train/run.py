"""`tiny-audio train`: from a configuration to a trained model on disk."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import gather_object
from omegaconf import OmegaConf

from tiny_audio.config import Config
from tiny_audio.data.utterance import RejectCounts
from tiny_audio.model.decoder import embedding_rms
from tiny_audio.model.resolve import find_checkpoint as find_weights
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.scoring import get_rule
from tiny_audio.train.cache import open_cache
from tiny_audio.train.evaluation import Checkup, CheckupPlan
from tiny_audio.train.loop import Trainer
from tiny_audio.train.messages import beginning, ending, interruption
from tiny_audio.train.monitor import Monitor
from tiny_audio.train.optim import build_optimizer, parameter_groups, usable_warmup
from tiny_audio.train.pace import Pace
from tiny_audio.train.progress import open_display
from tiny_audio.train.report import Reporter
from tiny_audio.train.rng import seed_everything
from tiny_audio.train.saving import Saver, open_store, resume_point
from tiny_audio.train.setup import (
    agree_on_folder,
    check_settings,
    find_augmentation,
    find_data,
    make_data,
    make_model,
    open_accelerator,
    start_tracker,
)
from tiny_audio.train.sharding import LossModule, configure_fsdp, whole_weights
from tiny_audio.train.stages import apply_learns, check_stage, checkpoint_decoder


@dataclass(frozen=True)
class RunSummary:
    """How a run ended. ``interrupted`` is the signal that ended it early, if one did."""

    output_dir: Path
    steps: int
    seconds: float
    best: Path | None
    last: Path | None
    wer: float | None  # of the newest evaluation, if there was one
    eval_loss: float | None
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
        return _Run(cfg, accelerator).train(argv)
    finally:
        # What wraps the model holds the process group; threads of a group that outlives the
        # interpreter abort the process at its very end.
        accelerator.free_memory()
        gc.collect()
        accelerator.end_training()
        # Accelerate's state is global: without this a second run could not choose its precision.
        GradientState._reset_state()
        AcceleratorState._reset_state(reset_partial_state=True)


class _Run:
    """The parts of one run, wired together."""

    def __init__(self, cfg: Config, accelerator: Accelerator) -> None:
        self.cfg, self.accelerator = cfg, accelerator
        self.folder = Path(cfg.output_dir)
        seed_everything(cfg.seed, accelerator.process_index)
        self.store = open_store(cfg, self.folder)
        resumed = resume_point(cfg, self.store, self.folder)
        sources, augment = find_data(cfg), find_augmentation(cfg)
        first = cfg.model.init_from
        start = resumed or (find_weights(first) if first is not None else None)
        self.model = make_model(cfg, accelerator.device, start)
        self.learning = apply_learns(self.model, cfg.training.learns)
        if cfg.training.gradient_checkpointing:
            checkpoint_decoder(self.model.causal_lm)
        data = make_data(cfg, sources, augment, self.model, accelerator, resumed)
        self.stream, self.held_out, self.eval_rejects = data
        self.report = Reporter(
            accelerator,
            Monitor(self.folder, writes=accelerator.is_main_process),
            open_display(live=cfg.training.progress, max_steps=cfg.training.max_steps),
            metric=cfg.training.metric_for_best,
            embedding_rms=embedding_rms(self.model.causal_lm),
        )
        generators = _generators(self.model, cfg.seed + accelerator.process_index)
        self.saver = Saver(cfg, self.store, accelerator, self.model, self.stream, generators)
        self.cache = open_cache(cfg, self.model, accelerator, sources[0], self.report.say)
        self.trainer = self._trainer()
        if resumed is not None:
            self.saver.restore(self.trainer, resumed)
        self._say_beginning(resumed)

    def train(self, argv: Sequence[str] | None) -> RunSummary:
        """Run the loop between its first and last words."""
        began, before = time.perf_counter(), self.trainer.step
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(OmegaConf.structured(self.cfg), self.folder / "config.yaml")
        start_tracker(self.accelerator, self.cfg, self.folder)
        with self.report.display:
            interrupted = self.trainer.run()
        self.report.finish()
        summary = self._summary(time.perf_counter() - began, interrupted)
        if interrupted is None:
            lines = ending(
                self.folder,
                steps=summary.steps - before,
                seconds=summary.seconds,
                wer=summary.wer,
                best=summary.best,
            )
        else:
            lines = interruption(
                self.folder,
                number=interrupted,
                step=summary.steps,
                argv=argv,
                processes=self.accelerator.num_processes,
            )
        cached = [] if self.cache is None else [self.cache.summary()]
        for line in [*summary.rejects.summary(), *cached, *lines]:
            self.report.say(line)
        return summary

    def _trainer(self) -> Trainer:
        t = self.cfg.training
        optimizer = build_optimizer(
            parameter_groups(self.model, lr=asdict(t.lr), weight_decay=asdict(t.weight_decay)),
            betas=(t.betas[0], t.betas[1]),
            fused=self.accelerator.device.type == "cuda",
        )
        module = LossModule(self.model)
        configure_fsdp(self.accelerator, module)
        module, optimizer = self.accelerator.prepare(module, optimizer)
        pace = Pace(
            max_steps=t.max_steps,
            accumulation=t.accumulation,
            warmup_steps=usable_warmup(t.warmup_steps, t.max_steps),
            min_lr_ratio=t.min_lr_ratio,
            max_grad_norm=t.max_grad_norm,
            log_every=t.log_every,
            eval_every=t.eval_every,
            save_every=t.save_every,
        )
        return Trainer(
            accelerator=self.accelerator,
            module=module,
            model=self.model,
            learns=t.learns,
            optimizer=optimizer,
            stream=self.stream,
            pace=pace,
            evaluate=self._evaluate if self.held_out else None,
            save=self.saver.save,
            report=self.report,
            frames=self.cache,
        )

    def _evaluate(self) -> Checkup:
        cfg = self.cfg.evaluation
        plan = CheckupPlan(
            self.held_out,
            words=self.cfg.training.eval_utterances,
            show=self.cfg.training.show_examples,
            rule=get_rule(cfg.scoring),
            batch_seconds=cfg.batch_seconds,
            max_utterances=cfg.max_utterances,
            generation=cfg.generation,
        )
        with whole_weights(self.model):
            return plan.run(self.model, self.accelerator)

    def _say_beginning(self, resumed: Path | None) -> None:
        lines = beginning(
            self.folder,
            device=str(self.accelerator.device),
            precision="bf16" if self.accelerator.mixed_precision == "bf16" else "fp32",
            processes=self.accelerator.num_processes,
            learning=self.learning,
            parameters=sum(p.numel() for p in self.model.parameters()),
            held_out=len(self.held_out),
            resumed=(resumed, self.trainer.step) if resumed else None,
        )
        for line in lines:
            self.report.say(line)

    def _summary(self, seconds: float, interrupted: int | None) -> RunSummary:
        evals = [row for row in self.report.monitor.rows if row["kind"] == "eval"]
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
            eval_loss=evals[-1]["eval_loss"] if evals else None,
            rejects=rejects,
            interrupted=interrupted,
        )


def _generators(model: SpeechModel, seed: int) -> dict[str, torch.Generator]:
    """Random generators of the model, seeded, by the name they are saved under."""
    assert model.augment_generator is not None
    model.augment_generator.manual_seed(seed)
    return {"spec_augment": model.augment_generator}
