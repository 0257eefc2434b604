"""What several tests of training share."""

from pathlib import Path

import pytest

from tests.train.helpers import write_set


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("sounds") / "set")
