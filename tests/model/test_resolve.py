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


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(ConfigError, match="'gpu' is unknown"):
        pick_device("gpu")
