"""Reading only the tensors that are wanted out of a safetensors checkpoint, local or on the hub.

GLM-ASR ships its audio tower (1.3 GB) in the same file as a language model (3 GB) that we never
use. A safetensors file starts with a table of what lies where, so the wanted tensors are read and
the rest is neither downloaded nor held in memory. Format:
https://huggingface.co/docs/safetensors (8 bytes of length, JSON header, then the data).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from tiny_audio.errors import ModelError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_HEADER_LIMIT = 100_000_000  # bytes, the format's own


def read_matching(files: CheckpointFiles, marker: str) -> dict[str, Tensor]:
    """Read the tensors whose name has ``marker`` as a path component, wherever it is nested.

    Args:
        files: where the checkpoint lies.
        marker: for example ``audio_tower``; names are cut up to and with ``audio_tower.``. Empty:
            every tensor.

    Returns:
        Tensors on the CPU in the dtype of the file, by the name that remains after the marker.

    Raises:
        ModelError: no such tensor, or a file that is not safetensors.
    """
    found: dict[str, Tensor] = {}
    for name in files.shards(marker):
        with files.open(name) as stream:
            for key, tensor in _read_tensors(stream, name, lambda key: _after(key, marker)):
                found[key] = tensor
    if not found:
        raise ModelError(f"{files.where}: holds no tensor named '{marker}.…'; is it the right one?")
    return found


class CheckpointFiles:
    """A checkpoint folder, on disk or on the Hugging Face Hub.

    Args:
        where: folder or hub id.
        revision: commit, branch or tag on the hub.
    """

    def __init__(self, where: str, revision: str | None = None) -> None:
        self.where = where
        self.revision = revision
        self._local = Path(where) if Path(where).is_dir() else None

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the parsed JSON file ``name``. Raises ModelError where it is missing."""
        with self.open(name) as stream:
            return cast(dict[str, Any], json.loads(stream.read()))

    def shards(self, marker: str) -> list[str]:
        """Names of the safetensors files that hold a tensor under ``marker``."""
        if not self._exists(_INDEX):
            return [_SINGLE]
        table: dict[str, str] = self.read_json(_INDEX)["weight_map"]
        return sorted({file for key, file in table.items() if _after(key, marker)})

    def open(self, name: str) -> BinaryIO:
        """Open a file of the checkpoint; on the hub only the bytes that are read travel."""
        try:
            if self._local is not None:
                return (self._local / name).open("rb")
            return self._open_on_hub(name)
        except FileNotFoundError:
            raise ModelError(f"{self.where}: has no file '{name}'") from None

    def _exists(self, name: str) -> bool:
        if self._local is not None:
            return (self._local / name).is_file()
        from huggingface_hub import file_exists, try_to_load_from_cache

        if isinstance(try_to_load_from_cache(self.where, name, revision=self.revision), str):
            return True
        return file_exists(self.where, name, revision=self.revision)

    def _open_on_hub(self, name: str) -> BinaryIO:
        from huggingface_hub import HfFileSystem, try_to_load_from_cache

        cached = try_to_load_from_cache(self.where, name, revision=self.revision)
        if isinstance(cached, str):
            return Path(cached).open("rb")
        return cast(
            BinaryIO,
            HfFileSystem().open(f"{self.where}/{name}", "rb", revision=self.revision),
        )


def _after(key: str, marker: str) -> str:
    """What remains of a tensor's name after ``marker.``; empty where it is not there."""
    if not marker:
        return key
    _head, found, tail = f".{key}".partition(f".{marker}.")
    return tail if found else ""


def _read_tensors(
    stream: BinaryIO, name: str, rename: Callable[[str], str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the renamed tensors of one safetensors stream; an empty new name skips the tensor."""
    try:
        (size,) = struct.unpack("<Q", stream.read(8))
        if size > _HEADER_LIMIT:
            raise ValueError("header too large")
        header = json.loads(stream.read(size))
    except (struct.error, ValueError) as error:
        raise ModelError(f"{name}: is not a safetensors file ({error})") from None
    header.pop("__metadata__", None)
    start = 8 + size
    wanted = [(info["data_offsets"], rename(key), info) for key, info in header.items()]
    for (begin, end), key, info in sorted(wanted, key=lambda row: row[0]):
        if not key:
            continue
        stream.seek(start + begin)
        data = bytearray(stream.read(end - begin))
        if len(data) != end - begin:
            raise ModelError(f"{name}: is cut short at tensor '{key}'; download it again")
        tensor = torch.frombuffer(data, dtype=_DTYPES[info["dtype"]]) if data else torch.empty(0)
        yield key, tensor.reshape(info["shape"])
