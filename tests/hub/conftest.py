"""A hub in a box for each test, and one for all that holds what the presets name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.server import Hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    """An empty hub."""
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def stocked_hub(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Iterator[Hub]:
    """A hub with small stand-ins for the published checkpoints and speech sets, by their own ids.

    It is shared by all tests: heal what you let fail, and change nothing else in it. Qwen3 needs
    its own tokenizer, which lies in the shared data.
    """
    from tests.hub.stock import stock

    with Hub() as hub:
        stock(hub, tmp_path_factory.mktemp("stock"), shared_data / "qwen3_tokenizer")
        yield hub
