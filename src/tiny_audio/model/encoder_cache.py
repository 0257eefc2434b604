"""Encoder frames on disk, so that a frozen encoder hears each clip once.

    DIR/3f2a…/about.json          what the frames are: encoder, weights, features, number format
    DIR/3f2a…/<writer>-0000.bin   frames in bf16, one clip after the other
    DIR/3f2a…/<writer>-0000.idx   36 bytes a clip: key, place, size, checksums

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
_ENTRY = np.dtype(
    [("a", "<u8"), ("b", "<u8"), ("at", "<u8"), ("frames", "<u4"), ("crc", "<u4"), ("sum", "<u4")]
)
_ROW = np.dtype([("a", "<u8"), ("b", "<u8"), ("at", "<u8"), ("frames", "<u4"), ("crc", "<u4"),
                   ("shard", "<u4")])  # fmt: skip

_Place = tuple[int, int, int, int]  # offset, frames, checksum, shard


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
        self._fresh: dict[bytes, _Place] = {}  # not in the table yet
        self._writer: _Writer | None = None
        self._own: set[Path] = set()  # indexes that this store writes
        self._lock = threading.Lock()
        self._looked = 0.0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            about_file = self.folder / "about.json"
            if not about_file.exists():
                about_file.write_text(described + "\n")
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
            self._extend([self._entries(index) for index in others])

    def read(self, keys: Sequence[bytes]) -> list[Tensor | None]:
        """Frames [E, D] bf16 on the CPU for each key; None where there are none that are whole."""
        places = [self._find(key) for key in keys]
        if not all(places):
            self.refresh()
            places = [self._find(key) for key in keys]
        return [self._first_whole(found) for found in places]

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
            places = self._writer.append(keys, frames)
        except OSError as error:
            self.refused = error.strerror or str(error)
            return
        self._fresh |= {k: (*place, shard) for k, place in zip(keys, places, strict=True)}
        if len(self._fresh) >= _FRESH:
            rows = [(*np.frombuffer(k, "<u8").tolist(), *place) for k, place in self._fresh.items()]
            with self._lock:
                self._extend([np.array(rows, _ROW)])
                self._fresh = {}

    def _extend(self, parts: Sequence[npt.NDArray[Any]]) -> None:
        table = np.concatenate([self._table, *parts])
        self._table = table[np.argsort(table["a"], kind="stable")]

    def _find(self, key: bytes) -> list[_Place]:
        """Where a key's frames are; more than one place where some turned out to be damaged."""
        with self._lock:
            fresh, table = self._fresh.get(key), self._table
        a, b = np.frombuffer(key, "<u8")
        first, last = (int(np.searchsorted(table["a"], a, side)) for side in ("left", "right"))
        rows = [row for row in table[first:last].tolist() if row[1] == b]
        return [*([fresh] if fresh is not None else []), *(row[2:] for row in rows)]

    def _first_whole(self, places: Sequence[_Place]) -> Tensor | None:
        return next((frames for p in places if (frames := self._load(p)) is not None), None)

    def _load(self, place: _Place) -> Tensor | None:
        offset, count, crc, shard = place
        frames = torch.empty(count, self.width, dtype=torch.bfloat16)
        target = frames.view(torch.uint8).numpy().data.cast("B")
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

    def _entries(self, index: Path) -> npt.NDArray[Any]:
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
        places = np.empty(len(whole), _ROW)
        for name in ("a", "b", "at", "frames", "crc"):
            places[name] = whole[name]
        places["shard"] = self._shards.index(data)
        return places


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
        entries = np.zeros(len(keys), _ENTRY)
        pieces = [f.contiguous().view(torch.uint8).numpy().data.cast("B") for f in frames]
        at = self.size
        for entry, key, piece, one in zip(entries, keys, pieces, frames, strict=True):
            entry["a"], entry["b"] = np.frombuffer(key, "<u8")
            entry["at"], entry["frames"], entry["crc"] = at, len(one), zlib.crc32(piece)
            at += len(piece)
        entries["sum"] = _sums(entries)
        try:
            _append(self.data, pieces)
            _append(self.index, [memoryview(entries.tobytes())])
        except OSError:
            for path, size in ((self.data, self.size), (self.index, self._listed)):
                if path.exists():
                    with path.open("r+b") as file:
                        file.truncate(size)
            raise
        self.size, self._listed = at, self._listed + entries.nbytes
        return [(int(e["at"]), int(e["frames"]), int(e["crc"])) for e in entries]


def _append(path: Path, pieces: Sequence[memoryview]) -> None:
    with path.open("ab") as file:
        for piece in pieces:
            file.write(piece)


def _sums(entries: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """A checksum for each index entry: its words, each times an odd number."""
    words = (
        np.ascontiguousarray(entries)
        .view("<u4")
        .reshape(len(entries), _ENTRY.itemsize // 4)[:, :-1]
    )
    factors = np.arange(1, 2 * words.shape[1], 2, dtype=np.uint32) * np.uint32(2654435761)
    sums: npt.NDArray[np.uint32] = (words * factors + np.uint32(1)).sum(axis=1, dtype=np.uint32)
    return sums
