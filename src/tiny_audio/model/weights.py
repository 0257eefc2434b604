"""Weights of frozen parts: the wanted tensors of a safetensors checkpoint, or random ones.

GLM-ASR ships its audio tower (1.3 GB) in the same file as a language model (3 GB) that we never
use. A safetensors file starts with a table of what lies where (8 bytes of length, JSON, then data),
so only the wanted tensors are downloaded, in blocks, into one file of the hub's assets cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub.utils
import torch
from huggingface_hub import cached_assets_path, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.modeling_utils import local_torch_dtype

from tiny_audio.errors import CheckpointError, ModelError, TinyAudioError
from tiny_audio.hub import SMALL_FILES, commit_of, fail, has_weights, snapshot, weight_names

_BLOCK = 16 << 20  # bytes of one request
_CONNECTIONS = 8
_SILENCE_SECONDS = 20.0  # of a server, after which a request is made again
_HEADER_LIMIT = 100_000_000  # bytes, the format's own

client: Any = huggingface_hub.utils
Range = tuple[str, int, int]  # URL, first byte, byte after the last


def random_module(
    make: Callable[[], Any], seed: int, dtype: torch.dtype, device: torch.device
) -> Any:
    """Call ``make`` under a seed, in the wanted number format; the global RNG is left as it was.
    Made on the CPU (unless on the meta device), so that every device gets the same weights, and in
    the wanted format from the start, so that a large model never exists twice in fp32."""
    on = device if device.type == "meta" else torch.device("cpu")
    with torch.random.fork_rng(devices=[]), on, local_torch_dtype(dtype):
        torch.manual_seed(seed)
        return make().to(device)


def check_tensors(
    expected: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    where: object,
    error: type[TinyAudioError],
) -> None:
    """Raise ``error``, naming ``where`` and the first tensor that ``state`` misses, or that is
    unexpected or of another shape."""
    missing, extra = expected.keys() - state.keys(), state.keys() - expected.keys()
    for what, keys in (("misses the tensor", missing), ("has an unexpected tensor", extra)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise error(f"{where}: {what} '{min(keys)}'{more}")
    for key, value in state.items():
        if value.shape != expected[key].shape:
            mine, theirs = list(expected[key].shape), list(value.shape)
            raise error(f"{where}: '{key}' is {theirs}, this model has {mine}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file. Raises CheckpointError where it is missing or damaged."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: has no {path.name}; the checkpoint is incomplete")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is damaged or cut short ({error})") from None


def write_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors of any device to a file."""
    values = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(values, path, metadata={"format": "pt"})


def read_matching(files: Iterable[Path], marker: str, source: str) -> dict[str, Tensor]:
    """Read the tensors whose name has ``marker`` as a path component, by the name that remains
    after it; an empty marker means every tensor. Raises ModelError: no such tensor in ``source``,
    or a file that is not safetensors."""
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as stored:
                for key in stored.keys():  # noqa: SIM118
                    if name := _after(key, marker):
                        found[name] = stored.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file}: is damaged or no safetensors file ({error}); delete it and run again"
            ) from None
    if not found:
        raise ModelError(f"{source}: holds no tensor named '{marker}.…'; is it the right one?")
    return found


def find_tensors(source: str, revision: str | None, marker: str) -> list[Path]:
    """Safetensors files with all tensors under ``marker``, fetched where need be. Raises HubError:
    the tensors are not on this disk and cannot be fetched; ModelError: a folder without its
    weights, or something else in their place."""
    folder = snapshot(source, revision, files=SMALL_FILES)
    names = weight_names(folder)
    if has_weights(folder):
        return [folder / name for name in names]
    commit = commit_of(folder)
    if commit is None:
        missing = next(name for name in names if not (folder / name).is_file())
        raise ModelError(f"{source}: has no file '{missing}'")
    target = cached_assets_path("tiny_audio", source, commit) / f"{marker or 'model'}.safetensors"
    if not target.is_file():
        try:
            _fetch(source, commit, names, marker, target)
        except Exception as error:  # of httpx, huggingface_hub and the disk: no common base
            fail(error, source, revision)
    return [target]


def _after(key: str, marker: str) -> str:
    """What remains of a tensor's name after ``marker.``; empty where it is not there."""
    return f".{key}".partition(f".{marker}.")[2] if marker else key


def _fetch(repo_id: str, commit: str, names: list[str], marker: str, target: Path) -> None:
    """Download the tensors under ``marker`` into one file, or the rest where a part is there."""
    with client.WeakFileLock(target.with_suffix(".lock")):
        if target.is_file():  # by another process, in the meantime
            return
        header, ranges = _plan(repo_id, commit, names, marker)
        part = target.with_suffix(".part")
        with part.open("ab") as file, ThreadPoolExecutor(_CONNECTIONS) as pool:
            if file.tell() < len(header):
                file.truncate(0)
                file.write(header)
            done = file.tell() - len(header)
            total = sum(stop - start for _url, start, stop in ranges)
            title = f"{repo_id} ({marker})"
            with client.tqdm(
                desc=title, total=total, initial=done, unit="B", unit_scale=True
            ) as bar:
                for data in pool.map(_read, _blocks(ranges, done)):
                    file.write(data)
                    bar.update(len(data))
        part.replace(target)


def _plan(repo_id: str, commit: str, names: list[str], marker: str) -> tuple[bytes, list[Range]]:
    """The head of a safetensors file of the wanted tensors, and where their data lies, in order."""
    table: dict[str, Any] = {}
    ranges: list[Range] = []
    place = 0
    for name in names:
        url = hf_hub_url(repo_id, name, revision=commit)
        start = 8 + int.from_bytes(_read((url, 0, 8)), "little")
        if start > _HEADER_LIMIT:
            raise ModelError(f"{repo_id}: '{name}' is not a safetensors file")
        header: dict[str, Any] = json.loads(_read((url, 8, start)))
        header.pop("__metadata__", None)
        wanted = [(key, info) for key, info in header.items() if _after(key, marker)]
        for key, info in sorted(wanted, key=lambda item: item[1]["data_offsets"]):
            begin, end = info["data_offsets"]
            first = start + begin
            if ranges and ranges[-1][0] == url and ranges[-1][2] == first:  # adjacent
                first = ranges.pop()[1]
            ranges.append((url, first, start + end))
            table[key] = info | {"data_offsets": [place, place + end - begin]}
            place += end - begin
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, ranges


def _blocks(ranges: list[Range], done: int) -> Iterator[Range]:
    """Ranges without their first ``done`` bytes, in blocks."""
    for url, start, stop in ranges:
        skipped = min(done, stop - start)
        done -= skipped
        for first in range(start + skipped, stop, _BLOCK):
            yield url, first, min(first + _BLOCK, stop)


def _read(block: Range) -> bytes:
    """Bytes of a file on the hub; waits and asks again where the hub is busy or the line breaks."""
    url, start, stop = block
    response = client.http_backoff(
        "GET",
        url,
        headers=client.build_hf_headers() | {"Range": f"bytes={start}-{stop - 1}"},
        follow_redirects=True,
        timeout=_SILENCE_SECONDS,
        retry_on_exceptions=HfHubHTTPError.__bases__[0],  # the base of httpx's errors
    )
    client.hf_raise_for_status(response)
    if len(response.content) != stop - start:
        raise ConnectionError(f"the server sent {len(response.content)} of {stop - start} bytes")
    return bytes(response.content)
