"""`tiny-audio doctor`: what this machine has, what will work on it and what will not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from tiny_audio.errors import first_line

_EXTRAS = {
    "synth": "espeakng_loader",
    "augment": "audiomentations",
    "vad": "silero_vad",
    "live": "sounddevice",
    "track": "wandb",
}
_PAIR_GB = 3.0  # what the default pair takes in the cache
_MEMORY_GB = 8.0  # for training its projector on a CPU
_GB = 1e9

# Marks: NOTE: something will not work; BAD: nothing will.
GOOD, NOTE, BAD = "ok", "--", "!!"
Finding = tuple[str, str]  # mark and text


def doctor_command() -> int:
    """Print what is found; 0, or 1 where something must be mended first. Nothing is downloaded."""
    bad, width = [], shutil.get_terminal_size().columns
    for subject, examine in SUBJECTS.items():
        mark, text = examine()
        line = f"{mark}  {subject:<9} {text}"
        print(textwrap.fill(line, width, subsequent_indent=" " * 14, break_on_hyphens=False))
        bad += [subject] if mark == BAD else []
    print(f"\nMend first: {', '.join(bad)}" if bad else "\nTiny Audio works on this machine.")
    return 1 if bad else 0


def _python() -> Finding:
    return GOOD, f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _packages() -> Finding:
    from packaging.requirements import Requirement

    unmet = []
    for wanted in map(Requirement, importlib.metadata.requires("tiny-audio") or []):
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        if not version or not wanted.specifier.contains(version, prereleases=True):
            unmet.append(f"{wanted.name} {version or 'is missing'} (needs {wanted.specifier})")
    if unmet:
        return BAD, f"{', '.join(unmet)}; pip install -e . in the project's folder"
    return GOOD, f"all there; transformers {importlib.metadata.version('transformers')}"


def _torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return BAD, f"cannot be imported: {first_line(error)}"
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = ", ".join(f"{gpu.name} {gpu.total_memory / _GB:.0f} GB" for gpu in gpus)
        return GOOD, f"{torch.__version__}; CUDA {torch.version.cuda}: {names}"
    if torch.backends.mps.is_available():
        return GOOD, f"{torch.__version__}; MPS (Apple GPU)"
    cpu = f"{os.cpu_count()} CPU cores do for model=nano, slow for the big pair"
    return NOTE, f"{torch.__version__}; no GPU answers: {cpu}"


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    text = f"{memory.available / _GB:.0f} of {memory.total / _GB:.0f} GB free"
    if memory.available / _GB >= _MEMORY_GB:
        return GOOD, text
    return NOTE, f"{text}: little for the default pair, enough for model=nano"


def _cache() -> Finding:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free / _GB
    text = f"{cache}, {free:.0f} GB free"
    if os.access(there, os.W_OK) and free >= _PAIR_GB:
        return GOOD, text
    why = f"the default pair takes {_PAIR_GB:.0f} GB" if free < _PAIR_GB else "cannot be written"
    return NOTE, f"{text}: {why}; set HF_HOME to another folder"


def _hub() -> Finding:
    from huggingface_hub import get_session, get_token
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return NOTE, "HF_HUB_OFFLINE is set: only what is in the cache"
    try:
        get_session().head(ENDPOINT, timeout=1.5)
    except Exception as error:  # httpx's, by whichever name it goes
        away = f"{ENDPOINT} cannot be reached ({type(error).__name__})"
        return NOTE, f"{away}: only what is in the cache; model=nano needs none"
    return GOOD, f"{ENDPOINT} answers; {'a' if get_token() else 'no'} token for gated models"


def _extras() -> Finding:
    there = [name for name, module in _EXTRAS.items() if find_spec(module)]
    missing = ", ".join(name for name in _EXTRAS if name not in there)
    how = (
        f"; not installed: {missing} (pip install '.[NAME]' in the folder of Tiny Audio)"
        if missing
        else ""
    )
    return NOTE if missing else GOOD, (", ".join(there) or "none") + how


SUBJECTS: dict[str, Callable[[], Finding]] = {
    "Python": _python,
    "packages": _packages,
    "PyTorch": _torch,
    "memory": _memory,
    "cache": _cache,
    "hub": _hub,
    "extras": _extras,
}
