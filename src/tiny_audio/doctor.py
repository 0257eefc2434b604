"""`tiny-audio doctor`: what this machine has, what will work on it and what will not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_audio import logs

_PACKAGE = "tiny-audio"
_PAIR_GB = 3.0  # what the default pair takes in the cache
_MEMORY_GB = 8.0  # for training its projector on a CPU
_ASK_SECONDS = 1.5
_GB = 1e9

GOOD, NOTE, BAD = "ok", "--", "!!"


@dataclass(frozen=True)
class Finding:
    """One line. ``NOTE``: something will not work; ``BAD``: nothing will."""

    mark: str
    subject: str
    text: str


def doctor_command() -> int:
    """Print the findings; 0, or 1 where something must be mended first."""
    found = []
    width = shutil.get_terminal_size().columns
    for finding in examine():
        line = f"{finding.mark}  {finding.subject:<9} {finding.text}"
        print(textwrap.fill(line, width, subsequent_indent=" " * 14, break_on_hyphens=False))
        found.append(finding)
    bad = [finding.subject for finding in found if finding.mark == BAD]
    print(f"\nMend first: {', '.join(bad)}" if bad else "\nTiny Audio works on this machine.")
    return 1 if bad else 0


def examine() -> Iterator[Finding]:
    """All findings. Nothing is downloaded, and no token is shown."""
    with ThreadPoolExecutor(1) as pool:
        hub = pool.submit(_hub)  # while torch is imported
        yield _python()
        yield _packages()
        yield _torch()
        yield _memory()
        yield _cache()
        yield hub.result()
    yield _tokens()
    yield Finding(
        GOOD,
        "audio",
        "wav, flac, mp3, ogg, m4a, mp4, webm …: decoders are inside, no ffmpeg needed",
    )
    yield _extras()


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return (
        Finding(GOOD, "Python", text)
        if good
        else Finding(BAD, "Python", f"{text}: needs 3.11 to 3.13")
    )


def _unmet(extra: str) -> tuple[list[str], list[str]]:
    """What the package requires with an extra (or ``""``), and what of it is not there."""
    from packaging.requirements import Requirement

    required, unmet = [], []
    for line in importlib.metadata.requires(_PACKAGE) or []:
        wanted = Requirement(line)
        always = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if always == bool(extra) or (
            wanted.marker and not wanted.marker.evaluate({"extra": extra})
        ):
            continue
        required.append(wanted.name)
        try:
            version = importlib.metadata.version(wanted.name)
            if not wanted.specifier.contains(version, prereleases=True):
                unmet.append(f"{wanted.name} {version} (needs {wanted.specifier})")
        except importlib.metadata.PackageNotFoundError:
            unmet.append(wanted.name)
    return required, unmet


def _packages() -> Finding:
    required, unmet = _unmet("")
    if unmet:
        text = f"missing or too old: {', '.join(unmet)}; pip install -e . in the project's folder"
        return Finding(BAD, "packages", text)
    names = ("transformers", "huggingface-hub", "datasets", "peft", "accelerate")
    shown = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return Finding(GOOD, "packages", f"{shown} and {len(required) - len(names)} more")


def _torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding(BAD, "PyTorch", f"cannot be imported: {str(error).splitlines()[0]}")
    text = f"{torch.__version__}"
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = ", ".join(f"{gpu.name} {gpu.total_memory / _GB:.0f} GB" for gpu in gpus)
        return Finding(GOOD, "PyTorch", f"{text}; CUDA {torch.version.cuda}: {names}")
    if torch.backends.mps.is_available():
        return Finding(GOOD, "PyTorch", f"{text}; MPS (Apple GPU)")
    built = "this build has CUDA but no GPU answers" if torch.version.cuda else "no CUDA, no MPS"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding(
        NOTE,
        "PyTorch",
        f"{text}; {built}: {cores} CPU cores do for model=nano, slow for the big pair",
    )


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / _GB
    total = psutil.virtual_memory().total / _GB
    text = f"{free:.0f} of {total:.0f} GB free"
    if free >= _MEMORY_GB:
        return Finding(GOOD, "memory", text)
    return Finding(NOTE, "memory", f"{text}: little for the default pair, enough for model=nano")


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
        return Finding(NOTE, "cache", f"{text}: {error.strerror}; set HF_HOME to another folder")
    if free < _PAIR_GB:
        return Finding(
            NOTE,
            "cache",
            f"{text}: the default pair takes {_PAIR_GB:.0f} GB; set HF_HOME elsewhere",
        )
    return Finding(GOOD, "cache", text)


def _hub() -> Finding:
    import huggingface_hub.utils
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return Finding(NOTE, "hub", "HF_HUB_OFFLINE is set: only what is in the cache")
    try:
        client: Any = huggingface_hub.utils
        client.get_session().head(ENDPOINT, timeout=_ASK_SECONDS)
    except Exception as error:  # httpx's, by whichever name it goes
        return Finding(
            NOTE,
            "hub",
            f"{ENDPOINT} cannot be reached ({type(error).__name__}): only what is in the cache; "
            "model=nano needs none",
        )
    return Finding(GOOD, "hub", f"{ENDPOINT} answers")


def _tokens() -> Finding:
    from huggingface_hub import get_token

    tokens = {
        "Hugging Face": bool(get_token()),
        "W&B": logs.has_wandb_key(),
        "RunPod": "RUNPOD_API_KEY" in os.environ,
    }
    text = ", ".join(f"{name} {'there' if there else 'none'}" for name, there in tokens.items())
    return Finding(GOOD if tokens["Hugging Face"] else NOTE, "tokens", f"{text} (all optional)")


def _extras() -> Finding:
    meta = importlib.metadata.metadata(_PACKAGE)
    unmet = {name: bool(_unmet(name)[1]) for name in meta.get_all("Provides-Extra") or []}
    there = ", ".join(name for name, missing in unmet.items() if not missing) or "none"
    missing = ", ".join(name for name, missing in unmet.items() if missing)
    hint = f"; not installed: {missing} (pip install 'tiny-audio[NAME]')" if missing else ""
    return Finding(NOTE if missing else GOOD, "extras", f"{there}{hint}")
