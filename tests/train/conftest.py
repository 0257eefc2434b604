"""What several tests of training share."""

from pathlib import Path

import pytest

from tests.train.helpers import FLAT, run, write_set


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("sounds") / "set")


@pytest.fixture(scope="session")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, each with a checkpoint; copy it to change it."""
    out = tmp_path_factory.mktemp("done") / "run"
    run(data, out, *FLAT, "training.max_steps=2", "training.save_steps=1")
    return out
