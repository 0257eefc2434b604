"""A few seconds of generated sound with words, and short runs of the tiny pair on it."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from accelerate import Accelerator
from rich.console import Console

from tiny_audio.compose import compose
from tiny_audio.config import Config, TrainingConfig
from tiny_audio.data.batching import collate
from tiny_audio.data.records import Utterance
from tiny_audio.model.batch import Batch
from tiny_audio.model.build import build_model
from tiny_audio.model.lora import add_lora
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.build import RunSummary, train
from tiny_audio.train.loop import Prefetcher, Trainer
from tiny_audio.train.metrics import Bar, Reporter
from tiny_audio.train.stages import apply_learns, parameter_groups

TEXTS = (
    *("red lorry", "yellow lorry", "green bottle", "seven seas"),
    *("old clock", "tall tree", "quick fox", "lazy dog"),
)
CPU = torch.device("cpu")
RESUME = "training.resume_from_checkpoint=last"
FLAT = ("training.eval_steps=0", "training.warmup_steps=0", "training.min_lr_rate=1")
TIMING = ("audio_seconds_per_second", "seconds_per_step", "memory_gb")


def sound(seed: int) -> np.ndarray:
    """One to two seconds of gliding tones, different for each seed."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(16_000 * rng.uniform(1.0, 2.0))) / 16_000
    tones = [
        np.sin(2 * np.pi * rng.uniform(100, 4000) * t) * np.sin(np.pi * rng.integers(1, 6) * t) ** 2
        for _ in range(6)
    ]
    return (0.05 * sum(tones) + 0.001 * rng.standard_normal(len(t))).astype(np.float32)


def utterances() -> list[Utterance]:
    """Eight different sounds, each with its own two words."""
    return [Utterance(f"u{i}", sound(i), text, "test") for i, text in enumerate(TEXTS)]


def write_set(folder: Path) -> Path:
    """The same as a folder of recordings with texts."""
    folder.mkdir(parents=True)
    for one in utterances():
        soundfile.write(folder / f"{one.id}.wav", one.waveform, 16_000, subtype="FLOAT")
        (folder / f"{one.id}.txt").write_text(one.text)
    return folder


def arguments(data: Path, out: Path, *overrides: str) -> list[str]:
    """Command-line settings of a run of the tiny pair on a few utterances."""
    return [
        *("model=tiny", "device=cpu", "data=folder", f"data.path={data}", f"data.eval_path={data}"),
        *("data.num_workers=0", "data.pool=8", "training.batch_seconds=4"),
        *("training.logging_steps=1", "training.progress=false", f"output_dir={out}"),
        *overrides,
    ]


def settings(data: Path, out: Path, *overrides: str) -> Config:
    return compose(arguments(data, out, *overrides))


def run(data: Path, out: Path, *overrides: str) -> RunSummary:
    return train(settings(data, out, *overrides))


def rows(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    """The rows of one kind in a run's metrics."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def untimed(out: Path) -> list[dict[str, Any]]:
    """The rows of training and evaluation without what depends on the clock."""
    both = rows(out) + rows(out, "eval")
    return [{k: v for k, v in row.items() if k not in TIMING} for row in both]


def tiny(learns: Sequence[str] = ("projector",), *, dropout: bool = True) -> SpeechModel:
    model = build_model(compose(["model=tiny", "output_dir=unused"]).model, device=CPU)
    if "lora" in learns:
        torch.manual_seed(0)
        rate = 0.1 if dropout else 0.0
        model.decoder = add_lora(
            model.causal_lm, r=4, lora_alpha=8, lora_dropout=rate, target_modules=["all-linear"]
        )
    apply_learns(model, learns)
    return model


def batch_of(model: SpeechModel, chosen: Sequence[Utterance]) -> Batch:
    return collate(chosen, model.prompt, model.audio_tokens, with_labels=True)


class ListStream:
    epoch = 0.0

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch}


def reporter(folder: Path, metric: str = "wer", patience: int | None = None) -> Reporter:
    bar = Bar(99, live=False, console=Console(file=io.StringIO(), width=100))
    return Reporter(Accelerator(cpu=True), folder, bar, metric=metric, patience=patience)


def said_by(report: Reporter) -> str:
    file = report.bar.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def trainer_of(
    model: SpeechModel,
    learns: Sequence[str],
    batches: Sequence[Batch],
    folder: Path,
    **settings: Any,
) -> Trainer:
    """A trainer whose optimizer is plain gradient descent, so that an update shows its gradient.

    One step of all batches, logged, where `settings` do not say otherwise.
    """
    values: dict[str, Any] = {
        **{"max_steps": 1, "gradient_accumulation_steps": len(batches), "learns": list(learns)},
        **{"learning_rate": 1.0, "lora_learning_rate": 1.0, "decoder_learning_rate": 1.0},
        **{"warmup_steps": 0, "min_lr_rate": 1.0, "max_grad_norm": 0.0, "decoder_weight_decay": 0},
        **{"logging_steps": 1, "eval_steps": 0, "save_steps": 0},
        **settings,
    }
    config, report = TrainingConfig(**values), reporter(folder)
    optimizer = torch.optim.SGD(parameter_groups(model, config))
    return Trainer(
        config,
        accelerator=report.accelerator,
        model=model,
        optimizer=optimizer,
        stream=Prefetcher(ListStream(batches)),  # type: ignore[arg-type]
        to_device=lambda batch: batch,
        report=report,
        evaluate=None,
        save=lambda trainer, evaluation: None,
    )
