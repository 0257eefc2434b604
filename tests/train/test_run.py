"""What a run leaves behind, and what it refuses before it starts."""

import contextlib
import importlib.util
import io
import logging
from pathlib import Path

import pytest

from tests.train.helpers import TEXTS, rows, run, settings, untimed
from tiny_audio.errors import ConfigError, MissingExtraError
from tiny_audio.infer.transcribe import Recogniser
from tiny_audio.model.checkpoint import read_config, read_info, resolve_model
from tiny_audio.train.build import RunSummary, train

SHORT = ("training.max_steps=3", "training.eval_steps=2", "training.eval_utterances=3")


@pytest.fixture(scope="module")
def short(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunSummary, str]:
    """A run of three steps: its folder, its summary and what it said."""
    out = tmp_path_factory.mktemp("short") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        summary = run(data, out, *SHORT)
    return out, summary, said.getvalue()


def test_a_run_leaves_everything_in_its_folder(data, short):
    out, summary, said = short
    assert (summary.exit_code, summary.steps) == (0, 3)
    for name in ("config.yaml", "metrics.jsonl", "loss.png", "checkpoints/index.json"):
        assert (out / name).is_file(), name
    assert [row["step"] for row in rows(out)] == [1, 2, 3]
    assert [row["step"] for row in rows(out, "eval")] == [2, 3]
    for line in (
        "Learns: projector (45,280)",
        "Held out for evaluation: 8 utterances",
        "reference:  red lorry",
        f"Best checkpoint: {summary.best}",
        f"Next: tiny-audio transcribe FILE --model {out}",
    ):
        assert line in said, line
    expected = settings(data, out, *SHORT)
    expected.data.labels.case_of = {"main": "keep"}  # what case=auto decided
    assert read_config(summary.best) == expected
    assert read_info(summary.best).metadata["wer"] == summary.wer
    row = rows(out)[-1]
    for name in (
        *("step", "epoch", "loss", "grad_norm", "grad_norm_max", "lr_projector", "memory_gb"),
        *("audio_seconds_per_second", "seconds_per_step", "guess_loss", "projector_output_rms"),
    ):
        assert isinstance(row[name], int | float), name
    assert row["epoch"] > 0


@pytest.mark.slow
def test_the_tiny_pair_learns_eight_utterances_by_heart(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    summary = run(
        *(data, out, "training.max_steps=150", "training.eval_steps=75"),
        "training.learns=[projector,lora]",  # its random decoder must learn to write, too
        *("model.lora.r=16", "training.learning_rate=3e-3", "training.lora_learning_rate=1e-2"),
        *("training.logging_steps=10", "training.batch_seconds=60"),
        *("training.spec_augment.freq_masks=0", "training.spec_augment.time_masks=0"),
    )
    assert summary.wer == 0.0
    files = [str(data / f"u{i}.wav") for i in range(len(TEXTS))]
    transcripts = Recogniser(resolve_model(str(out), device="cpu")).transcribe(files)
    assert tuple(transcript.text for transcript in transcripts) == TEXTS


def test_equal_seeds_give_equal_runs(data, tmp_path, short):
    default = settings(data, tmp_path).seed
    for name, seed in (("same", default), ("other", default + 1)):
        run(data, tmp_path / name, *SHORT, f"seed={seed}")
        assert (untimed(tmp_path / name) == untimed(short[0])) == (name == "same")


def test_bf16_autocast_on_the_cpu_and_tensorboard_with_every_figure(data, tmp_path, short):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    run(data, tmp_path / "a", *SHORT, "training.precision=bf16", "training.report_to=tensorboard")
    half, full = (rows(folder)[-1]["loss"] for folder in (tmp_path / "a", short[0]))
    assert half != full
    assert half == pytest.approx(full, rel=0.02)
    events = next((tmp_path / "a").rglob("events.out.tfevents*"))
    reader = accumulator.EventAccumulator(str(events.parent))
    reader.Reload()
    losses = [event.value for event in reader.Scalars("train/loss")]
    assert losses == pytest.approx([row["loss"] for row in rows(tmp_path / "a")])
    assert len(reader.Scalars("eval/wer")) == 2


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_tracker_that_is_not_installed_is_named_with_its_extra(data, tmp_path):
    with pytest.raises(MissingExtraError, match=r"'.\[track\]'"):
        run(data, tmp_path / "run", "training.report_to=wandb")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.precision=fp8", "auto, bf16, fp32"),
        ("training.report_to=mlflow", "null, wandb, tensorboard"),
        ("training.metric_for_best_model=cer", "wer, loss"),
        ("data.exhausted=never", r"data\.exhausted=never: use one of repeat, stop"),
        ("seed=-1", r"seed=-1: must be 0 or more"),
        ("training.max_steps=0", r"max_steps=0: must be above 0"),
        ("training.learns=[encoder]", r"training\.learns"),
        ("training.early_stopping_patience=0", "early_stopping_patience=0: must be 1 or more"),
        *((f"training.batch_seconds={value}", "above 0, or auto") for value in ("-3", "a", "true")),
        ("evaluation.scoring=nonsense", "whisper-en"),
        ("device=tpu", "device"),
    ],
)
def test_settings_that_cannot_be_are_refused_first(override: str, message: str) -> None:
    """Before any data is looked for: this path does not exist."""
    with pytest.raises(ConfigError, match=message):
        train(settings(Path("/nowhere"), Path("x"), override))
