"""Where log records go: warnings, each once, to the terminal (`-v`: everything), and every record
to a file in the run's folder."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = "run.log"

# They log to the terminal by themselves from when they are imported.
_LIBRARIES = ("accelerate", "datasets", "huggingface_hub", "transformers")
# Python's warnings are for programmers, and of requests that are made again we say so ourselves.
_QUIET = ("py.warnings", "huggingface_hub.utils._http")


class _Terminal(logging.Handler):
    """Writes to standard error as it is now: the live display puts its own in place of it."""

    def __init__(self, verbose: bool) -> None:
        super().__init__(logging.INFO if verbose else logging.WARNING)
        self._verbose = verbose
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip()
        if not self._verbose and (text in self._said or record.name in _QUIET):
            return
        self._said.add(text)
        library = record.name.partition(".")[0]
        print(text if library == "tiny_audio" else f"{library}: {text}", file=sys.stderr)


def start(verbose: bool) -> None:
    """Let the terminal show warnings, or with ``verbose`` every record."""
    root = logging.getLogger()
    root.handlers = [item for item in root.handlers if not isinstance(item, _Terminal)]
    root.addHandler(_Terminal(verbose))
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    route_libraries()


def route_libraries() -> None:
    """Pass on what libraries log, where they are imported and the command line has a log."""
    if not any(isinstance(handler, _Terminal) for handler in logging.getLogger().handlers):
        return  # used from Python: whoever imports us decides about logging
    for library in map(logging.getLogger, _LIBRARIES):
        if library.name in sys.modules and library.handlers:
            library.handlers, library.propagate = [], True


def has_wandb_key() -> bool:
    """Whether W&B would find an API key: in the environment or in netrc."""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    in_netrc = file.is_file() and "wandb" in file.read_text(errors="replace")
    return in_netrc or bool(os.environ.get("WANDB_API_KEY"))


@contextmanager
def to_file(folder: Path) -> Iterator[None]:
    """Keep every record in ``run.log`` of a folder, from the first one on."""
    route_libraries()
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / FILE, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
