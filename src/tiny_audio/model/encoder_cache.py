"""Encoder frames on disk, so that a frozen encoder hears each clip once.

    DIR/3f2a…/about.json       what the frames are of: encoder, weights, features, number format
    DIR/3f2a…/7c/7c41….frames  of one clip: 4 bytes of checksum, then the frames [E, D] in bf16

Another encoder or setting has another folder, so what is stale is never found. Files are renamed
when they are whole, so several runs and processes share a folder without locks.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tiny_audio.errors import DataError

FORMAT = 2


def audio_key(waveform: npt.NDArray[np.float32]) -> bytes:
    """16 bytes that stand for the samples of a clip [S]."""
    return hashlib.blake2b(np.ascontiguousarray(waveform).data, digest_size=16).digest()


class FrameStore:
    """Frames [E, D] of one encoder, by key. ``root``: a folder that several encoders may share;
    ``about``: JSON values that frames depend on, beside the clip; ``width``: D. Raises DataError
    where the folder cannot be made or read."""

    def __init__(self, root: Path, about: dict[str, Any], width: int) -> None:
        described = json.dumps({"format": FORMAT, "width": width, **about}, sort_keys=True)
        name = hashlib.blake2b(described.encode(), digest_size=8).hexdigest()
        self.folder, self.width = root / name, width
        self.damaged = 0  # clips that were found and could not be used
        self.refused = ""  # why writing has ended, if it has
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "about.json").write_text(described + "\n")
            sizes = [path.stat().st_size for path in self.folder.glob("*/*.frames")]
        except OSError as error:
            raise DataError(
                f"data.cache_encoder={root}: cannot be used ({error.strerror or error}); choose a "
                "folder that can be written"
            ) from error
        self.size = sum(sizes)  # bytes on disk
        self._clips = len(sizes)

    def __len__(self) -> int:
        return self._clips

    def read(self, keys: Sequence[bytes]) -> list[Tensor | None]:
        """Frames [E, D] bf16 on the CPU for each key; None where there are none that are whole."""
        return [self._read(self._path(key)) for key in keys]

    def write(self, keys: Sequence[bytes], frames: Sequence[Tensor]) -> None:
        """Keep frames [E, D] bf16 on the CPU; where the disk refuses, note the reason and stop."""
        for key, one in zip(keys, frames, strict=True):
            if self.refused:
                return
            path, content = self._path(key), one.contiguous().view(torch.uint8).numpy()
            part = path.with_suffix(f".{secrets.token_hex(4)}")
            try:
                path.parent.mkdir(exist_ok=True)
                with part.open("wb") as file:
                    file.write(_checksum(content))
                    file.write(content.data)
                part.replace(path)
            except OSError as error:
                self.refused = error.strerror or str(error)
                with suppress(OSError):
                    part.unlink()
                return
            self._clips += 1
            self.size += 4 + content.nbytes

    def _path(self, key: bytes) -> Path:
        return self.folder / key.hex()[:2] / f"{key.hex()}.frames"

    def _read(self, path: Path) -> Tensor | None:
        if not path.exists():
            return None
        try:
            content = np.fromfile(path, np.uint8)
        except OSError:
            content = np.empty(0, np.uint8)
        if _checksum(content[4:]) != content[:4].tobytes():
            self.damaged += 1
            return None
        values = torch.from_numpy(content[4:]).view(torch.bfloat16)
        return values.view(len(values) // self.width, self.width)


def _checksum(content: npt.NDArray[np.uint8]) -> bytes:
    return zlib.crc32(content.data).to_bytes(4, "little")
