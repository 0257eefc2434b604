"""`tiny-audio doctor`: what this machine has, what will work on it and what will not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tiny_audio import logs

_PACKAGE = "tiny-audio"
_PAIR_GB = 3.0  # what the default pair takes in the cache
_MEMORY_GB = 8.0  # for training its projector on a CPU
_ASK_SECONDS = 1.5
_GB = 1e9

# Marks: NOTE: something will not work; BAD: nothing will.
GOOD, NOTE, BAD = "ok", "--", "!!"
Finding = tuple[str, str]  # mark and text


def doctor_command() -> int:
    """Print the findings; 0, or 1 where something must be mended first."""
    bad = []
    width = shutil.get_terminal_size().columns
    for subject, (mark, text) in examine():
        line = f"{mark}  {subject:<9} {text}"
        print(textwrap.fill(line, width, subsequent_indent=" " * 14, break_on_hyphens=False))
        if mark == BAD:
            bad.append(subject)
    print(f"\nMend first: {', '.join(bad)}" if bad else "\nTiny Audio works on this machine.")
    return 1 if bad else 0


def examine() -> Iterator[tuple[str, Finding]]:
    """Every subject and its finding. Nothing is downloaded, and no token is shown."""
    with ThreadPoolExecutor(1) as pool:
        hub = pool.submit(_hub)  # while torch is imported
        system = f"{platform.system()} {platform.machine()}"
        yield "Python", (GOOD, f"{platform.python_version()} on {system}")
        yield "packages", _packages()
        yield "PyTorch", _torch()
        yield "memory", _memory()
        yield "cache", _cache()
        yield "hub", hub.result()
    yield "tokens", _tokens()
    yield "extras", _extras()


def _unmet(extra: str) -> list[str]:
    """What of the requirements with an extra (or ``""``) is missing or too old."""
    from packaging.requirements import Requirement

    unmet = []
    for line in importlib.metadata.requires(_PACKAGE) or []:
        wanted = Requirement(line)
        always = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        needed = wanted.marker is None or wanted.marker.evaluate({"extra": extra})
        if not needed or (extra and always):
            continue
        try:
            version = importlib.metadata.version(wanted.name)
            if not wanted.specifier.contains(version, prereleases=True):
                unmet.append(f"{wanted.name} {version} (needs {wanted.specifier})")
        except importlib.metadata.PackageNotFoundError:
            unmet.append(wanted.name)
    return unmet


def _packages() -> Finding:
    if unmet := _unmet(""):
        text = f"missing or too old: {', '.join(unmet)}; pip install -e . in the project's folder"
        return BAD, text
    names = ("transformers", "huggingface-hub", "datasets", "peft", "accelerate")
    return GOOD, ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def _torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return BAD, f"cannot be imported: {str(error).splitlines()[0]}"
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = ", ".join(f"{gpu.name} {gpu.total_memory / _GB:.0f} GB" for gpu in gpus)
        return GOOD, f"{torch.__version__}; CUDA {torch.version.cuda}: {names}"
    if torch.backends.mps.is_available():
        return GOOD, f"{torch.__version__}; MPS (Apple GPU)"
    built = "this build has CUDA but no GPU answers" if torch.version.cuda else "no CUDA, no MPS"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu = f"{cores} CPU cores do for model=nano, slow for the big pair"
    return NOTE, f"{torch.__version__}; {built}: {cpu}"


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
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return NOTE, f"{text}: {error.strerror}; set HF_HOME to another folder"
    if free < _PAIR_GB:
        return NOTE, f"{text}: the default pair takes {_PAIR_GB:.0f} GB; set HF_HOME elsewhere"
    return GOOD, text


def _hub() -> Finding:
    from huggingface_hub import get_session
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return NOTE, "HF_HUB_OFFLINE is set: only what is in the cache"
    try:
        get_session().head(ENDPOINT, timeout=_ASK_SECONDS)
    except Exception as error:  # httpx's, by whichever name it goes
        away = f"{ENDPOINT} cannot be reached ({type(error).__name__})"
        return NOTE, f"{away}: only what is in the cache; model=nano needs none"
    return GOOD, f"{ENDPOINT} answers"


def _tokens() -> Finding:
    from huggingface_hub import get_token

    tokens = {
        "Hugging Face": bool(get_token()),
        "W&B": logs.has_wandb_key(),
        "RunPod": "RUNPOD_API_KEY" in os.environ,
    }
    text = ", ".join(f"{name} {'there' if there else 'none'}" for name, there in tokens.items())
    return GOOD if tokens["Hugging Face"] else NOTE, f"{text} (all optional)"


def _extras() -> Finding:
    names = importlib.metadata.metadata(_PACKAGE).get_all("Provides-Extra") or []
    missing = [name for name in names if _unmet(name)]
    there = ", ".join(name for name in names if name not in missing) or "none"
    if not missing:
        return GOOD, there
    return NOTE, f"{there}; not installed: {', '.join(missing)} (pip install 'tiny-audio[NAME]')"
