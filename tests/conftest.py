"""What every test has: no network, one thread for each test process, the speech data if present."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Set before torch or any Hugging Face library is imported, and inherited by subprocesses.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "offline"
# A shell that starts a job in the background lets it ignore Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.hub.server import Hub

# A busy machine must not fail a property: what counts is the outcome, not the time.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

REPO = Path(__file__).resolve().parent.parent


DATA = Path(os.environ.get("TINY_AUDIO_DATA", REPO.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real speech, noise and tokenizers, which are not part of the repository."""
    if not DATA.is_dir():
        pytest.skip(f"needs the speech data: no folder {DATA} (TINY_AUDIO_DATA names another)")
    return DATA


@pytest.fixture
def hub() -> Iterator[Hub]:
    """An empty hub on this machine; clients see it with `hub.environ(home)`."""
    from tests.hub.server import Hub

    with Hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def stocked_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that holds small stand-ins, by the published ids, for all that the presets name.

    All tests share it: heal what you let fail, and change nothing else in it. Qwen3 is in it only
    where the shared data is: a test that needs it asks for `shared_data` as well.
    """
    from tests.hub.checkpoints import stock
    from tests.hub.server import Hub

    tokenizer = DATA / "qwen3_tokenizer"
    with Hub() as hub:
        stock(hub, tmp_path_factory.mktemp("stock"), tokenizer if tokenizer.is_dir() else None)
        yield hub
