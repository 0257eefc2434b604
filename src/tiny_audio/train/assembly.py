"""The parts of one run, wired together: what `run.py` starts, and `race.py` several of at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from omegaconf import OmegaConf

from tiny_audio.config import Config
from tiny_audio.data.rejects import RejectCounts
from tiny_audio.model.decoder import embedding_rms
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.scoring import get_rule
from tiny_audio.train.ahead import Ahead
from tiny_audio.train.evaluation import Checkup, CheckupPlan
from tiny_audio.train.loop import Trainer
from tiny_audio.train.messages import beginning, ending, interruption
from tiny_audio.train.monitor import Monitor
from tiny_audio.train.optim import build_optimizer, parameter_groups, usable_warmup
from tiny_audio.train.pace import Pace
from tiny_audio.train.parts import Parts
from tiny_audio.train.report import Reporter
from tiny_audio.train.saving import Saver, open_store
from tiny_audio.train.setup import start_tracker
from tiny_audio.train.sharding import LossModule, configure_fsdp, whole_weights
from tiny_audio.train.stages import apply_learns


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


class Run:
    """One run.

    Args:
        cfg: of the run.
        accelerator: processes, devices and number format.
        parts: see ``Parts``.
        name: of one run among several, for the tracker.
    """

    def __init__(
        self, cfg: Config, accelerator: Accelerator, parts: Parts, *, name: str = ""
    ) -> None:
        self.cfg, self.accelerator = cfg, accelerator
        self.folder = Path(cfg.output_dir)
        self.model, self.stream, self.frames = parts.model, parts.stream, parts.frames
        self.held_out, self.eval_rejects = parts.held_out, parts.eval_rejects
        self.learning = apply_learns(self.model, cfg.training.learns)
        self.store = open_store(cfg, self.folder)
        self.report = Reporter(
            accelerator,
            Monitor(
                self.folder,
                writes=accelerator.is_main_process,
                from_scratch=cfg.model.init_from is None,
            ),
            parts.display,
            metric=cfg.training.metric_for_best_model,
            patience=cfg.training.early_stopping_patience,
            embedding_rms=embedding_rms(self.model.causal_lm),
            name=name,
        )
        generators = _generators(self.model, cfg.seed + accelerator.process_index)
        self.saver = Saver(cfg, self.store, accelerator, self.model, self.stream, generators)
        self.trainer = self._trainer()
        if parts.resumed is not None:
            self.saver.restore(self.trainer, parts.resumed)
        self.before = self.trainer.step
        self.random: Mapping[str, Any] = {}  # states that belong to it, where it takes turns
        self._say_beginning(parts.resumed)

    def train(self, argv: Sequence[str] | None) -> RunSummary:
        """Run the loop between its first and last words."""
        began = time.perf_counter()
        self.begin()
        start_tracker(self.accelerator, self.cfg, self.folder)
        with self.report.display:
            interrupted = self.trainer.run()
        summary = self.finish(time.perf_counter() - began, interrupted)
        for line in self.last_words(summary, argv):
            self.report.say(line)
        return summary

    def begin(self) -> None:
        """Leave the settings in the run's folder."""
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(OmegaConf.structured(self.cfg), self.folder / "config.yaml")

    def finish(self, seconds: float, interrupted: int | None) -> RunSummary:
        """Draw the curves a last time and say how it ended."""
        self.report.finish()
        return self._summary(seconds, interrupted)

    def last_words(self, summary: RunSummary, argv: Sequence[str] | None) -> list[str]:
        """Lines after the last step."""
        cached = [] if self.frames is None else [self.frames.summary()]
        usage = self.report.usage(summary.steps, self.stream.usage)
        lines = [*summary.rejects.summary(), *usage, *cached]
        if summary.interrupted is None:
            return lines + ending(
                self.folder,
                steps=summary.steps - self.before,
                planned=0 if self.report.stale else self.cfg.training.max_steps - self.before,
                seconds=summary.seconds,
                wer=summary.wer,
                best=summary.best,
                start=self.report.unbeaten_start(self.cfg.model.init_from),
            )
        return lines + interruption(
            self.folder,
            number=summary.interrupted,
            step=summary.steps,
            argv=argv,
            processes=self.accelerator.num_processes,
        )

    def _trainer(self) -> Trainer:
        t = self.cfg.training
        optimizer = build_optimizer(
            parameter_groups(
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
            ),
            betas=(t.adam_beta1, t.adam_beta2),
            fused=self.accelerator.device.type == "cuda",
        )
        module = LossModule(self.model)
        configure_fsdp(self.accelerator, module)
        module, optimizer = self.accelerator.prepare(module, optimizer)
        pace = Pace(
            max_steps=t.max_steps,
            gradient_accumulation_steps=t.gradient_accumulation_steps,
            warmup_steps=usable_warmup(t.warmup_steps, t.max_steps),
            min_lr_rate=t.min_lr_rate,
            max_grad_norm=t.max_grad_norm,
            eval_start=self.cfg.model.init_from is not None,
            logging_steps=t.logging_steps,
            eval_steps=t.eval_steps,
            save_steps=t.save_steps,
        )
        stream = self.stream
        return Trainer(
            accelerator=self.accelerator,
            module=module,
            model=self.model,
            learns=t.learns,
            optimizer=optimizer,
            stream=stream,
            pace=pace,
            evaluate=self._evaluate if self.held_out else None,
            save=self.saver.save,
            report=self.report,
            bring=self.frames or (stream.on_device if isinstance(stream, Ahead) else None),
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
