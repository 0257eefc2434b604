"""Frames on disk: what was written whole is read, everything else is as if it were not there."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tiny_audio.errors import DataError
from tiny_audio.train.encoder_cache import FrameStore, clip_key

ABOUT = {"encoder": "test"}
WIDTH = 6


def key(number: int) -> bytes:
    return clip_key(np.full(3, number, dtype=np.float32))


def frames(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(number % 5 + 1, WIDTH, generator=generator).bfloat16()


def filled(root: Path, numbers: range) -> FrameStore:
    store = FrameStore(root, ABOUT, WIDTH)
    for number in numbers:
        store.write(key(number), frames(number))
    return store


def found(store: FrameStore, numbers: range) -> list[int]:
    """The numbers whose frames are there, each compared with what was written."""
    there = [(n, f) for n in numbers if (f := store.read(key(n))) is not None]
    assert all(torch.equal(f, frames(n)) for n, f in there)
    return [n for n, _ in there]


def test_what_is_written_is_read_by_every_store_of_the_folder(tmp_path: Path) -> None:
    one, two = filled(tmp_path, range(10)), filled(tmp_path, range(10, 15))
    for store in (one, two, FrameStore(tmp_path, ABOUT, WIDTH)):
        assert found(store, range(20)) == list(range(15))
        assert store.damaged == 0
    assert FrameStore(tmp_path, ABOUT, WIDTH).clips == 15
    assert FrameStore(tmp_path, {"encoder": "other"}, WIDTH).clips == 0
    assert one.size == sum(frames(n).numel() * 2 + 4 for n in range(10))


def test_damage_of_any_byte_and_at_any_length_is_noticed_and_the_clip_replaced(
    tmp_path: Path,
) -> None:
    store = filled(tmp_path, range(3))
    (path,) = tmp_path.rglob(f"{key(1).hex()}.*")
    whole = path.read_bytes()
    changed = [whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :] for at in range(len(whole))]
    cut = [whole[:length] for length in range(len(whole))]
    for count, content in enumerate([*changed, *cut], 1):
        path.write_bytes(content)
        assert found(store, range(3)) == [0, 2]
        assert store.damaged == count
    store.write(key(1), frames(1))
    assert found(store, range(3)) == [0, 1, 2]


def test_a_write_that_fails_leaves_nothing_and_ends_the_writing(tmp_path: Path) -> None:
    store = filled(tmp_path, range(3))
    (path,) = tmp_path.rglob(f"{key(1).hex()}.*")
    path.unlink()
    path.mkdir()  # a file cannot take this name
    for number in (1, 4):
        store.write(key(number), frames(number))
    assert store.refused
    store.write(key(5), frames(5))
    assert {p for p in tmp_path.rglob("*.*") if p.parent != store.folder} == {
        path,
        *(store._path(key(n)) for n in (0, 2)),
    }


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data\.cache_encoder=.*file"):
        FrameStore(tmp_path / "file", ABOUT, WIDTH)
