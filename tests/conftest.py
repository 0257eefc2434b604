"""What every test has: no network, one thread for each test process, the speech data if present."""

from __future__ import annotations

import os
import signal
from pathlib import Path

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

# A busy machine must not fail a property: what counts is the outcome, not the time.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real speech, noise and tokenizers, which are not part of the repository."""
    folder = Path(os.environ.get("TINY_AUDIO_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the speech data: no folder {folder} (TINY_AUDIO_DATA names another)")
    return folder
