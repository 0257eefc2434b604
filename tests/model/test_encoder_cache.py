"""Frames on disk: what was written whole is read, everything else is as if it were not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tiny_audio.errors import DataError
from tiny_audio.model import encoder_cache
from tiny_audio.model.encoder_cache import FrameStore, audio_key

ABOUT = {"encoder": "test"}
WIDTH = 6


def key(number: int) -> bytes:
    return audio_key(np.full(3, number, dtype=np.float32))


def frames(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(number % 5 + 1, WIDTH, generator=generator).bfloat16()


def filled(root: Path, numbers: range) -> FrameStore:
    store = FrameStore(root, ABOUT, WIDTH)
    for number in numbers:
        store.write([key(number)], [frames(number)])
    return store


def found(store: FrameStore, numbers: range) -> list[int]:
    """The numbers whose frames are there, each compared with what was written."""
    read = store.read([key(number) for number in numbers])
    there = [(n, f) for n, f in zip(numbers, read, strict=True) if f is not None]
    assert all(torch.equal(f, frames(n)) for n, f in there)
    return [n for n, _ in there]


def test_what_is_written_is_read_by_this_and_by_later_stores(tmp_path: Path) -> None:
    store = filled(tmp_path, range(10))
    assert found(store, range(12)) == list(range(10))
    assert found(FrameStore(tmp_path, ABOUT, WIDTH), range(12)) == list(range(10))
    assert len(FrameStore(tmp_path, {"encoder": "other"}, WIDTH)) == 0
    assert store.size == sum(frames(n).numel() * 2 for n in range(10))


def test_writers_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_cache, "_REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(encoder_cache, "_FRESH", 4)
    monkeypatch.setattr(encoder_cache, "SHARD_BYTES", 100)
    one, two = filled(tmp_path, range(20)), filled(tmp_path, range(20, 30))
    for store in (one, two, FrameStore(tmp_path, ABOUT, WIDTH)):
        assert found(store, range(30)) == list(range(30))
    assert len(list(tmp_path.rglob("*.bin"))) > 3
    assert one.damaged == two.damaged == 0


def test_a_write_cut_short_anywhere_leaves_the_rest_readable(tmp_path: Path) -> None:
    filled(tmp_path, range(6))
    (data,), (index,) = list(tmp_path.rglob("*.bin")), list(tmp_path.rglob("*.idx"))
    whole_data, whole_index = data.read_bytes(), index.read_bytes()
    entry = len(whole_index) // 6
    for cut in range(len(whole_index)):  # the index at every byte
        index.write_bytes(whole_index[:cut])
        assert found(FrameStore(tmp_path, ABOUT, WIDTH), range(6)) == list(range(cut // entry))
    index.write_bytes(whole_index)
    data.write_bytes(whole_data[:-1])
    store = FrameStore(tmp_path, ABOUT, WIDTH)
    assert found(store, range(6)) == list(range(5))
    assert store.damaged == 1


@pytest.mark.parametrize("what", ["*.bin", "*.idx"])
def test_a_changed_byte_is_noticed_and_the_clip_replaced(tmp_path: Path, what: str) -> None:
    filled(tmp_path, range(6))
    (path,) = tmp_path.rglob(what)
    content = bytearray(path.read_bytes())
    for at in range(0, len(content), 7):
        changed = bytearray(content)
        changed[at] ^= 0x10
        path.write_bytes(changed)
        store = FrameStore(tmp_path, ABOUT, WIDTH)
        left = found(store, range(6))
        assert len(left) == 5
        assert store.damaged >= 1
    (missing,) = set(range(6)) - set(left)
    store.write([key(missing)], [frames(missing)])
    for again in (store, FrameStore(tmp_path, ABOUT, WIDTH)):
        assert found(again, range(6)) == list(range(6))


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data\.cache_encoder=.*file"):
        FrameStore(tmp_path / "file", ABOUT, WIDTH)


def test_an_entry_is_small_and_a_million_are_found_fast(tmp_path: Path) -> None:
    store = filled(tmp_path, range(1))
    (index,) = tmp_path.rglob("*.idx")
    rng = np.random.default_rng(0)
    entries = np.zeros(1_000_000, encoder_cache._ENTRY)
    entries["a"], entries["b"] = rng.integers(2**63, size=(2, len(entries)))
    entries["sum"] = encoder_cache._sums(entries)
    index.write_bytes(index.read_bytes() + entries.tobytes())
    store = FrameStore(tmp_path, ABOUT, WIDTH)
    assert len(store) == 1_000_001
    assert index.stat().st_size < 40 * len(store)
    assert store._table.nbytes < 50 * len(store)
    assert found(store, range(100)) == [0]
