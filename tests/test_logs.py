"""What of the log reaches the terminal, and what the file in the run's folder."""

import logging
import warnings
from collections.abc import Iterator

import pytest

from tiny_audio import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    root.handlers.clear()  # what other tests of this process have left
    for name in ("transformers", "httpx"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.captureWarnings(False)  # a command run earlier captures into what pytest has put back
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def speak() -> None:
    logging.getLogger("tiny_audio.data").warning("a shard is gone")
    logging.getLogger("tiny_audio.data").info("a detail")
    for _ in range(2):
        logging.getLogger("transformers.models").warning("a hint")
        logging.getLogger("httpx").info("HTTP Request: HEAD")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("deprecated", FutureWarning, stacklevel=1)


def test_warnings_once_everything_in_the_file_and_all_with_verbose(capsys, tmp_path):
    logs.start(verbose=False)
    with logs.to_file(tmp_path / "run"):
        speak()
    speak()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == ["a shard is gone", "transformers: a hint"]
    kept = (tmp_path / "run" / "run.log").read_text()
    assert kept.count("HTTP Request: HEAD") == kept.count("a hint") == 2
    assert all(text in kept for text in ("a shard is gone", "a detail", "deprecated"))
    logs.start(verbose=True)
    speak()
    shown = capsys.readouterr()
    assert shown.err.count("httpx: HTTP") == shown.err.count("transformers: a hint") == 2
    assert "deprecated" in shown.err
