"""What data.labels.case=auto makes of a set is found once, and looking leaves no trace."""

from pathlib import Path

from tests.data.helpers import open_one, write_manifest
from tests.data.test_faults import QUICK, write_shard
from tiny_audio.config import LabelConfig
from tiny_audio.data.prepare import sample_labels, settle_case


def manifest(path: Path, loud: int, usual: int) -> str:
    """Capitals first, as where two corpora were put one after the other."""
    texts = ["WE CALL IT BEAR [NOISE]"] * loud + ["[noise]", "Tom called."] * (usual // 2)
    rows = [{"audio_filepath": f"{n}.wav", "text": text} for n, text in enumerate(texts)]
    return str(write_manifest(path, rows))


def test_a_mixed_set_is_judged_by_labels_from_all_over_it(tmp_path: Path) -> None:
    source = open_one(path=manifest(tmp_path / "m.jsonl", 3000, 1000))
    labels = LabelConfig()
    found = sample_labels([source], labels)
    assert set(found["main"]) == {"WE CALL IT BEAR", "Tom called."}  # [noise] is no label
    (said,) = settle_case(labels, found)
    assert labels.case_of == {"main": "lower_capitals"}
    assert "% are in capitals; those are learned in lower case" in said
    chosen = LabelConfig(case_of={"main": "keep"})
    assert settle_case(chosen, found) == []
    assert chosen.case_of == {"main": "keep"}
    assert settle_case(LabelConfig(case="keep"), found) == []


def test_what_is_lost_while_looking_is_not_lost_in_training(tmp_path: Path) -> None:
    for number in range(3):
        write_shard(tmp_path, "webdataset", number)
    source = open_one(kind="webdataset", path=str(tmp_path / "{0000..0002}.tar"), options=QUICK)
    broken = tmp_path / "0001.tar"
    whole = broken.read_bytes()
    broken.write_bytes(b"rubbish" * 100)
    assert len(sample_labels([source], LabelConfig())["main"]) == 12
    broken.write_bytes(whole)
    assert source.lost_shards() == []
    assert len(list(source.records())) == 18
    held = source.hold_out(4)[1]
    assert held.sample(4) == []
