"""Putting small stand-ins for everything that the presets name into a hub."""

from __future__ import annotations

from pathlib import Path

from tests.hub import checkpoints, datasets
from tests.hub.server import Hub


def stock(hub: Hub, folder: Path, tokenizer: Path | None) -> None:
    """Fill `hub` by the published ids; `folder` holds the checkpoints. No tokenizer: no Qwen3."""
    checkpoints.glm_asr(folder / "glm", nested=True)
    hub.create(checkpoints.GLM, checkpoints.files(folder / "glm"))
    if tokenizer is not None:
        checkpoints.qwen3(folder / "qwen3", tokenizer)
        hub.create(checkpoints.QWEN, checkpoints.files(folder / "qwen3"))
    checkpoints.whisper(folder / "whisper")
    hub.create(checkpoints.WHISPER, checkpoints.files(folder / "whisper"))
    for repo_id, make in datasets.SETS.items():
        gated = repo_id in datasets.GATED
        hub.create(repo_id, make(), repo_type="dataset", gated=gated)
