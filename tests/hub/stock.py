"""Putting small stand-ins for everything that the presets name into a hub."""

from __future__ import annotations

from pathlib import Path

from tests.hub.checkpoints import glm_asr, qwen3, whisper
from tests.hub.client import GLM, QWEN, WHISPER
from tests.hub.datasets import SETS
from tests.hub.server import Hub


def stock(hub: Hub, folder: Path, tokenizer: Path | None) -> None:
    """Fill `hub` by the published ids; `folder` holds the checkpoints. No tokenizer: no Qwen3."""
    glm_asr(folder / GLM)
    whisper(folder / WHISPER)
    if tokenizer is not None:
        qwen3(folder / QWEN, tokenizer)
    for place in folder.glob("*/*"):
        files = {path.name: path for path in place.iterdir()}
        hub.create(place.relative_to(folder).as_posix(), files)
    for repo_id, layout in SETS.items():
        hub.create(repo_id, layout.files(), repo_type="dataset", gated=layout.gated)
