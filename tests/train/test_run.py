"""What a run leaves behind, and what it refuses before it starts."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import pytest

from tests.train.helpers import rows, run, settings, write_set
from tiny_audio.compose import compose
from tiny_audio.errors import ConfigError, MissingExtraError
from tiny_audio.model.checkpoint import load_checkpoint, read_config, read_info
from tiny_audio.train.build import train

SHORT = ("training.max_steps=3", "training.eval_steps=2", "training.eval_utterances=3")


def test_a_run_leaves_everything_in_its_folder(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    summary = run(data, out, *SHORT)
    assert summary.exit_code == 0
    assert summary.steps == 3
    assert summary.best is not None
    for name in ("config.yaml", "metrics.jsonl", "loss.png", "checkpoints/index.json"):
        assert (out / name).is_file(), name
    assert [row["step"] for row in rows(out)] == [1, 2, 3]
    assert [row["step"] for row in rows(out, "eval")] == [2, 3]
    said = capsys.readouterr().out
    for line in (
        "Learns: projector (45,280)",
        "Held out for evaluation: 8 utterances",
        "reference:  red lorry",
        f"Best checkpoint: {summary.best}",
        f"Next: tiny-audio transcribe FILE --model {out}",
    ):
        assert line in said, line
    model = load_checkpoint(summary.best, device="cpu")
    assert model.audio_tokens(16_000) > 0
    expected = settings(data, out, *SHORT)
    expected.data.labels.case_of = {"main": "keep"}  # what case=auto decided
    assert read_config(summary.best) == expected
    assert read_info(summary.best).metadata["wer"] == summary.wer


def test_a_row_holds_what_the_monitor_promises(data: Path, tmp_path: Path) -> None:
    run(
        data,
        tmp_path / "run",
        *SHORT,
        "model.projector.type=moe",
        "training.gradient_accumulation_steps=2",
    )
    row = rows(tmp_path / "run")[-1]
    for name in (
        *("step", "epoch", "loss", "aux_loss", "grad_norm", "grad_norm_max", "lr_projector"),
        *("audio_seconds_per_second", "padding", "memory_gb", "seconds_per_step", "guess_loss"),
        *("embedding_rms", "weight_norm_projector", "projector_output_rms", "projector_share_0"),
    ):
        assert isinstance(row[name], int | float), name
    assert row["aux_loss"] > 0
    assert row["epoch"] > 0


def test_without_evaluation_data_it_trains_all_the_same(data: Path, tmp_path: Path) -> None:
    none = ("data.eval_path=null", "data.holdout=0", "training.max_steps=2")
    summary = run(data, tmp_path / "run", *none)
    assert summary.wer is None
    assert summary.best == summary.last is not None


def test_what_was_rejected_is_said_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_set(tmp_path / "set")
    (folder / "u3.wav").write_bytes(b"no audio at all")
    summary = run(folder, tmp_path / "run", "training.max_steps=3", "training.eval_steps=0")
    assert summary.rejects.total > 0
    assert "rejected" in capsys.readouterr().out
    assert summary.last is not None


def test_equal_seeds_give_equal_runs(data: Path, tmp_path: Path) -> None:
    short = ("training.max_steps=3", "training.eval_steps=0", "training.learns=[projector,lora]")
    losses = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(data, tmp_path / name, *short, f"seed={seed}")
        losses.append([row["loss"] for row in rows(tmp_path / name)])
    assert losses[0] == losses[1] != losses[2]


def test_bf16_autocast_trains_on_the_cpu_too(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "a", *SHORT, "training.precision=bf16")
    run(data, tmp_path / "b", *SHORT, "training.precision=fp32")
    half, full = (rows(tmp_path / name)[-1]["loss"] for name in "ab")
    assert half != full
    assert half == pytest.approx(full, rel=0.02)


def test_tensorboard_gets_every_figure(data: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    run(data, tmp_path / "run", *SHORT, "training.report_to=tensorboard")
    events = next((tmp_path / "run").rglob("events.out.tfevents*"))
    reader = accumulator.EventAccumulator(str(events.parent))
    reader.Reload()
    losses = [event.value for event in reader.Scalars("train/loss")]
    assert losses == pytest.approx([row["loss"] for row in rows(tmp_path / "run")])
    assert len(reader.Scalars("eval/wer")) == 2


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_tracker_that_is_not_installed_is_named_with_its_extra(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(MissingExtraError, match=r"tiny-audio\[track\]"):
        run(data, tmp_path / "run", "training.report_to=wandb")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.precision=fp8", "auto, bf16, fp32"),
        ("training.report_to=mlflow", "null, wandb, tensorboard"),
        ("training.metric_for_best_model=cer", "wer, loss"),
        ("training.max_steps=0", r"max_steps=0: must be above 0"),
        ("training.learns=[encoder]", r"training\.learns"),
        ("evaluation.scoring=nonsense", "whisper-en"),
        ("device=tpu", "device"),
    ],
)
def test_settings_that_cannot_be_are_refused_first(override: str, message: str) -> None:
    """Before any data is looked for: this path does not exist."""
    cfg = compose(["model=tiny", "data=folder", "data.path=/nowhere", "output_dir=x", override])
    with pytest.raises(ConfigError, match=message):
        train(cfg)
