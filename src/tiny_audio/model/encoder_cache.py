"""Encoder frames on disk, so that a frozen encoder hears each clip once.

    DIR/3f2a…/about.json          what the frames are: encoder, weights, features, number format
    DIR/3f2a…/<writer>-0000.bin   frames in bf16, one clip after the other
    DIR/3f2a…/<writer>-0000.idx   36 bytes a clip: key, offset, size, checksums

A folder of its own for each encoder and setting, so what is stale is never found. Every writer
appends to files of its own: several runs and processes share a folder without locks. A clip's
index entry is written after its frames and both carry checksums: whatever a kill or a full disk
leaves half written is computed again. E encoder frames, D encoder width.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tiny_audio.errors import DataError

FORMAT = 1
SHARD_BYTES = 16 * 2**30  # of one .bin file
_REFRESH_SECONDS = 30.0  # between two looks for what other writers have added
_FRESH = 50_000  # entries held in a dictionary before they go into the sorted table
_FIELDS = [("a", "<u8"), ("b", "<u8"), ("at", "<u8"), ("frames", "<u4"), ("crc", "<u4")]
_ENTRY = np.dtype([*_FIELDS, ("sum", "<u4")])  # in an index file; a and b are the key
_ROW = np.dtype([*_FIELDS, ("shard", "<u4")])  # in memory

_Position = tuple[int, int, int, int]  # offset, frames, checksum, shard


def audio_key(waveform: npt.NDArray[np.float32]) -> bytes:
    """16 bytes that stand for the samples of a clip [S]."""
    return hashlib.blake2b(np.ascontiguousarray(waveform).data, digest_size=16).digest()


class FrameStore:
    """Frames of one encoder, by key. Reading may be done by another thread than writing.

    Args:
        root: folder that several encoders may share.
        about: JSON values that frames depend on, beside the clip.
        width: D.

    Raises:
        DataError: the folder cannot be made or read.
    """

    def __init__(self, root: Path, about: dict[str, Any], width: int) -> None:
        described = json.dumps({"format": FORMAT, "width": width, **about}, sort_keys=True)
        name = hashlib.blake2b(described.encode(), digest_size=8).hexdigest()
        self.folder, self.width = root / name, width
        self.damaged = 0  # entries that were found and could not be used
        self.refused = ""  # why writing has ended, if it has
        self._shards: list[Path] = []
        self._files: dict[int, BinaryIO] = {}
        self._read_up_to: dict[Path, int] = {}  # bytes of each index that are known
        self._table = np.empty(0, _ROW)  # sorted by the first half of the key
        self._fresh: dict[bytes, _Position] = {}  # not in the table yet
        self._writer: _Writer | None = None
        self._own: set[Path] = set()  # indexes that this store writes
        self._lock = threading.Lock()
        self._looked = 0.0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "about.json").exists():
                (self.folder / "about.json").write_text(described + "\n")
            self.refresh(force=True)
        except OSError as error:
            raise DataError(
                f"data.cache_encoder={root}: cannot be used ({error.strerror or error}); choose a "
                "folder that can be written"
            ) from error

    def __len__(self) -> int:
        return len(self._table) + len(self._fresh)

    @property
    def size(self) -> int:
        """Size of the frames on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("*.bin"))

    def refresh(self, *, force: bool = False) -> None:
        """Take in what other writers have added."""
        if not force and time.monotonic() - self._looked < _REFRESH_SECONDS:
            return
        self._looked = time.monotonic()
        others = [i for i in sorted(self.folder.glob("*.idx")) if i not in self._own]
        with self._lock:
            self._extend([self._new_rows(index) for index in others])

    def read(self, keys: Sequence[bytes]) -> list[Tensor | None]:
        """Frames [E, D] bf16 on the CPU for each key; None where there are none that are whole."""
        positions = [self._find(key) for key in keys]
        if not all(positions):
            self.refresh()
            positions = [self._find(key) for key in keys]
        return [
            next((frames for p in found if (frames := self._load(*p)) is not None), None)
            for found in positions
        ]

    def write(self, keys: Sequence[bytes], frames: Sequence[Tensor]) -> None:
        """Append frames [E, D] bf16 on the CPU; where the disk refuses, keep the reason and stop.

        What was written before stays readable.
        """
        if self.refused:
            return
        try:
            if self._writer is None or self._writer.size >= SHARD_BYTES:
                self._writer = _Writer(self.folder)
                self._own.add(self._writer.index)
                self._shards.append(self._writer.data)
            shard = self._shards.index(self._writer.data)
            written = self._writer.append(keys, frames)
        except OSError as error:
            self.refused = error.strerror or str(error)
            return
        self._fresh |= {key: (*at, shard) for key, at in zip(keys, written, strict=True)}
        if len(self._fresh) >= _FRESH:
            rows = [(*np.frombuffer(k, "<u8").tolist(), *p) for k, p in self._fresh.items()]
            with self._lock:
                self._extend([np.array(rows, _ROW)])
                self._fresh = {}

    def _extend(self, rows: Sequence[npt.NDArray[Any]]) -> None:
        table = np.concatenate([self._table, *rows])
        self._table = table[np.argsort(table["a"], kind="stable")]

    def _find(self, key: bytes) -> list[_Position]:
        """Where a key's frames are; more than one where some turned out to be damaged."""
        with self._lock:
            fresh, table = self._fresh.get(key), self._table
        a, b = np.frombuffer(key, "<u8")
        first, last = (int(np.searchsorted(table["a"], a, side)) for side in ("left", "right"))
        rows = [row[2:] for row in table[first:last].tolist() if row[1] == b]
        return rows if fresh is None else [fresh, *rows]

    def _load(self, offset: int, count: int, crc: int, shard: int) -> Tensor | None:
        frames = torch.empty(count, self.width, dtype=torch.bfloat16)
        target = _bytes(frames)
        try:
            with self._lock:
                if shard not in self._files:
                    self._files[shard] = self._shards[shard].open("rb", buffering=0)
                self._files[shard].seek(offset)
                got = self._files[shard].readinto(target)  # type: ignore[attr-defined]
        except OSError:
            got = 0
        if got == len(target) and zlib.crc32(target) == crc:
            return frames
        self.damaged += 1
        return None

    def _new_rows(self, index: Path) -> npt.NDArray[Any]:
        """Whole entries of an index that are not known yet; its shard is made known."""
        data = index.with_suffix(".bin")
        if data not in self._shards:
            self._shards.append(data)
        known = self._read_up_to.get(index, 0)
        with index.open("rb") as file:
            file.seek(known)
            content = file.read()
        count = len(content) // _ENTRY.itemsize
        self._read_up_to[index] = known + count * _ENTRY.itemsize
        entries = np.frombuffer(content, _ENTRY, count)
        whole = entries[entries["sum"] == _sums(entries)]
        self.damaged += count - len(whole)
        rows: npt.NDArray[Any] = whole.view(_ROW).copy()
        rows["shard"] = self._shards.index(data)
        return rows


class _Writer:
    """One shard that grows, and its index."""

    def __init__(self, folder: Path) -> None:
        stem = f"{secrets.token_hex(6)}-{len(list(folder.glob('*.bin'))):04d}"
        self.data, self.index = folder / f"{stem}.bin", folder / f"{stem}.idx"
        self.size = self._listed = 0

    def append(self, keys: Sequence[bytes], frames: Sequence[Tensor]) -> list[tuple[int, int, int]]:
        """Write frames, then their entries; offset, frames and checksum of each.

        Raises OSError where the disk refuses; the files are cut back to what was whole.
        """
        pieces = [_bytes(one.contiguous()) for one in frames]
        written, at = [], self.size
        for piece, one in zip(pieces, frames, strict=True):
            written.append((at, len(one), zlib.crc32(piece)))
            at += len(piece)
        rows = [(*np.frombuffer(k, "<u8"), *w, 0) for k, w in zip(keys, written, strict=True)]
        entries = np.array(rows, _ENTRY)
        entries["sum"] = _sums(entries)
        try:
            for path, content in ((self.data, pieces), (self.index, [entries.tobytes()])):
                with path.open("ab") as file:
                    file.writelines(content)
        except OSError:
            for path, size in ((self.data, self.size), (self.index, self._listed)):
                if path.exists():
                    with path.open("r+b") as file:
                        file.truncate(size)
            raise
        self.size, self._listed = at, self._listed + entries.nbytes
        return written


def _bytes(frames: Tensor) -> memoryview:
    return frames.view(torch.uint8).numpy().data.cast("B")


def _sums(entries: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """A checksum for each index entry: its 32-bit words, each times an odd number."""
    words = np.ascontiguousarray(entries).view("<u4").reshape(-1, _ENTRY.itemsize // 4)[:, :-1]
    factors = np.arange(1, 2 * words.shape[1], 2, dtype=np.uint32) * np.uint32(2654435761)
    sums: npt.NDArray[np.uint32] = (words * factors + np.uint32(1)).sum(axis=1, dtype=np.uint32)
    return sums
