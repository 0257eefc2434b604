"""Which checkpoints stay, and what a full disk does."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.train.helpers import FLAT, RESUME, arguments
from tiny_audio import cli
from tiny_audio.errors import CheckpointError
from tiny_audio.train.checkpoints import CheckpointStore, resume_point


def write(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "weights").write_text("1")


def names(store: CheckpointStore) -> list[str]:
    on_disk = sorted(path.name for path in store.folder.glob("step-*"))
    assert on_disk == store.names
    return [name.lstrip("step-0") for name in on_disk]


def test_best_and_last_are_never_deleted(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    for step in range(1, 7):
        store.save(step, write, best=step == 2)
        assert store.last.name.endswith(str(step))
    assert names(store) == ["2", "5", "6"]
    assert store.best.name == "step-00000002"
    again = CheckpointStore(tmp_path / "checkpoints", keep=2)
    assert (again.names, again.best) == (store.names, store.best)
    index = json.loads((tmp_path / "checkpoints" / "index.json").read_text())
    assert (index["best"], index["last"]) == ("step-00000002", "step-00000006")


def test_without_evaluations_the_newest_is_the_best(tmp_path: Path) -> None:
    for step in (1, 2):
        store = CheckpointStore(tmp_path, keep=1)
        store.save(step, write, best=False)
        assert store.best == store.last == tmp_path / f"step-{step:08d}"


def test_without_an_index_the_folders_count(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=3)
    store.save(1, write, best=True)
    second = tmp_path / "checkpoints" / "step-00000002"
    write(second)  # killed before the index was written
    for index in (None, "{"):
        if index is not None:
            (tmp_path / "checkpoints" / "index.json").write_text(index)
        store = CheckpointStore(tmp_path / "checkpoints", keep=3)
        assert resume_point("last", store, tmp_path) == second
        other = CheckpointStore(tmp_path / "none", keep=3)
        assert resume_point(str(tmp_path), other, Path("elsewhere")) == second


def test_a_failed_save_leaves_index_and_checkpoints_as_they_were(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, write, best=True)

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"No space left on device.*last .*step-00000001"):
        store.save(2, full, best=True)
    assert CheckpointStore(tmp_path, keep=1).last == tmp_path / "step-00000001"
    assert names(store) == ["1"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files the POSIX way")
def test_a_disk_that_is_full_in_mid_run_ends_it_with_one_line(data, done, tmp_path, capsys):
    """No file may grow beyond 250 kB: the weights fit, the optimizer's state does not."""
    import resource

    out = Path(shutil.copytree(done, tmp_path / "run"))
    more = arguments(data, out, *FLAT, "training.max_steps=4", "training.save_steps=2", RESUME)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, before[1]))
    try:
        assert cli.run(["train", *more]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert "step-00000004: the checkpoint could not be" in said
    assert "Traceback" not in said
    store = CheckpointStore(out / "checkpoints", keep=3)
    assert store.last.name == "step-00000002"
    assert not list((out / "checkpoints").glob(".*part"))
