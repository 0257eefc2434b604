"""A race: every run in it is the run that it would be alone."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.train.helpers import rows, run, settings, tiny
from tiny_audio.errors import ConfigError
from tiny_audio.model.checkpoint import load_checkpoint, read_config
from tiny_audio.model.encoder import AudioEncoder
from tiny_audio.train.run import train

KINDS = ("mlp", "moe", "qformer")  # moe draws random numbers, qformer gives fewer tokens
RACE = f"training.race=[{','.join(KINDS)}]"
SHORT = (
    "training.max_steps=6",
    "training.eval_steps=3",
    "training.eval_utterances=2",
    "training.save_steps=2",
    "training.warmup_steps=0",
    "training.gradient_accumulation_steps=2",
    "training.save_total_limit=9",
)


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in rows(folder)]


@pytest.fixture(scope="module")
def raced(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("race") / "run"
    run(data, out, *SHORT, RACE)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_the_run_that_it_would_be_alone(
    data: Path, tmp_path: Path, raced: Path, kind: str
) -> None:
    alone = run(data, tmp_path / "alone", *SHORT, f"model.projector.type={kind}")
    assert losses(raced / kind) == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)
    for name in ("eval_loss", "wer"):
        raced_, alone_ = rows(raced / kind, "eval"), rows(tmp_path / "alone", "eval")
        assert [r[name] for r in raced_] == pytest.approx([r[name] for r in alone_], rel=1e-5)
    assert alone.last is not None
    found = load_checkpoint(raced / kind / "checkpoints" / alone.last.name, device="cpu")
    expected = load_checkpoint(alone.last, device="cpu")
    for name, value in expected.projector.state_dict().items():
        torch.testing.assert_close(
            found.projector.state_dict()[name], value, atol=2e-5, rtol=1e-3, msg=name
        )
    config = read_config(raced / kind / "checkpoints" / alone.last.name)
    assert (config.model.projector.type, config.training.race) == (kind, [])


def test_the_encoder_runs_once_for_all(data: Path, tmp_path: Path) -> None:
    calls: list[int] = []
    handle = register_module_forward_pre_hook(
        lambda module, _: calls.append(1) if isinstance(module, AudioEncoder) else None
    )
    quiet = ("training.eval_steps=0", "training.max_steps=3")
    try:
        run(data, tmp_path / "run", *quiet, RACE)
    finally:
        handle.remove()
    assert len(calls) == 3


def test_a_table_says_who_is_best(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run(data, tmp_path / "run", *SHORT, "training.max_steps=2", "training.race=[mlp,moe]")
    said = capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "race.json").read_text())
    assert {row["projector"] for row in result["runs"]} == {"mlp", "moe"}
    assert said.count("<- best") == 1
    assert summary.best is not None
    assert summary.best.is_relative_to(tmp_path / "run" / result["best"])
    best = min(result["runs"], key=lambda row: (row["wer"], row["loss"]))
    assert result["best"] == best["projector"]


def test_a_race_goes_on_from_the_last_step_that_all_have(
    data: Path, tmp_path: Path, raced: Path
) -> None:
    import shutil

    again = tmp_path / "again"
    shutil.copytree(raced, again)
    for kind in KINDS:
        for folder in (again / kind / "checkpoints").glob("step-*"):
            step = int(folder.name[5:])
            if step > (4 if kind == "mlp" else 2):  # the others were killed earlier
                shutil.rmtree(folder)
    run(data, again, *SHORT, RACE, "training.resume_from_checkpoint=last")
    for kind in KINDS:
        assert [row["step"] for row in rows(again / kind)] == [1, 2, 3, 4, 5, 6]
        assert losses(again / kind) == losses(raced / kind)


def test_ctrl_c_stops_all_at_one_step(data: Path, tmp_path: Path) -> None:
    def press() -> None:
        while not (tmp_path / "run" / "mlp" / "metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    quiet = ("training.eval_steps=0", "training.max_steps=500")
    summary = run(data, tmp_path / "run", *quiet, RACE)
    assert summary.exit_code == 130
    steps = {
        json.loads((tmp_path / "run" / kind / "checkpoints" / "index.json").read_text())["last"]
        for kind in KINDS
    }
    assert len(steps) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.race=[mlp,mpl]", "name each of"),
        ("training.race=[mlp,mlp]", "once at most"),
        ("training.learns=[projector,lora]", "fresh projectors"),
    ],
)
def test_races_that_cannot_be_are_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(settings(tmp_path, tmp_path / "run", "training.race=[mlp,moe]", override))


def test_projectors_of_a_race_share_everything_else() -> None:
    from tiny_audio.compose import compose
    from tiny_audio.model.build import build_model, with_projector

    first = tiny()
    config = compose(["model=tiny", "model.projector.type=moe", "output_dir=unused"]).model
    other, alone = with_projector(first, config, seed=0), build_model(config, device=first.device)
    assert other.encoder is first.encoder
    assert other.causal_lm is first.causal_lm
    assert other.identity == alone.identity
    assert all(
        torch.equal(a, b)
        for a, b in zip(other.projector.parameters(), alone.projector.parameters(), strict=True)
    )
