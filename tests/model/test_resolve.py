"""What a user may type for a model, and what is said where it is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.model.helpers import model_config, tiny_model
from tiny_audio.config import Config
from tiny_audio.errors import CheckpointError, ConfigError, HubError, ModelError
from tiny_audio.model.build import pick_device
from tiny_audio.model.checkpoint import find_checkpoint, resolve_model, save_checkpoint
from tiny_audio.model.inspect import describe_command, parts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints, the first of them the better one."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("step-1", "step-2"):
        save_checkpoint(
            tiny_model(),
            folder / "checkpoints" / name,
            config=Config(model=model_config(), output_dir=str(folder)),
            metadata={},
        )
    index = {"best": "step-1", "last": "step-2", "checkpoints": []}
    (folder / "checkpoints" / "index.json").write_text(json.dumps(index))
    return folder


def test_a_run_stands_for_its_best_checkpoint(run: Path) -> None:
    assert find_checkpoint(str(run)) == run / "checkpoints" / "step-1"
    assert resolve_model(str(run), device="cpu").audio_tokens(16_000) == 12


def test_a_checkpoint_stands_for_itself(run: Path) -> None:
    chosen = run / "checkpoints" / "step-2"
    assert find_checkpoint(str(chosen)) == chosen


def test_a_folder_that_is_neither_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a checkpoint"):
        find_checkpoint(str(tmp_path))


def test_a_run_without_checkpoints_says_so(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "index.json").write_text('{"checkpoints": []}')
    with pytest.raises(CheckpointError, match="not saved a checkpoint yet"):
        find_checkpoint(str(tmp_path))


@pytest.mark.parametrize("name", ["no/such/folder/here", "someone/no-such-model"])
def test_an_unknown_name_is_one_clear_line(name: str) -> None:
    with pytest.raises((ModelError, HubError), match=name) as caught:
        find_checkpoint(name)
    assert "\n" not in str(caught.value)


def test_a_slip_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ModelError, match="did you mean nano"):
        find_checkpoint("nanno")


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(ConfigError, match="'gpu' is unknown"):
        pick_device("gpu")


def test_the_big_pair_is_described_without_weights(capsys: pytest.CaptureFixture[str]) -> None:
    describe_command(["model=glm_qwen3"])
    shown = capsys.readouterr().out
    assert "12,585,984" in shown
    assert "596,049,920" in shown
    assert "qformer" in shown
    assert "12.5 a second" in shown  # 100 mel frames, 50 encoder frames, stacked by 4


def test_a_checkpoint_is_described(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    describe_command([str(run)])
    assert "GlmAsrEncoder" in capsys.readouterr().out


def test_only_what_learns_is_charged_for_gradient_and_optimizer() -> None:
    rows = {part.name: part for part in parts(tiny_model(), ["projector"])}
    assert rows["encoder"].bytes_held == 4 * rows["encoder"].parameters
    assert rows["projector"].bytes_held == 16 * rows["projector"].parameters
    assert [name for name, part in rows.items() if part.learns] == ["projector"]
