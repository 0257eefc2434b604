"""What the data benchmark reads, and that it tells a leak from none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from bench.load import durations

from bench import data
from tiny_audio.data.records import Utterance


@pytest.mark.parametrize("kind", list(data.FORMATS))
def test_a_corpus_holds_what_its_manifest_says(kind: str, tmp_path: Path) -> None:
    (source,) = data._open(data.make_corpus(tmp_path / "c", kind, 3))
    records = list(source.records())
    assert [r.seconds for r in records] == pytest.approx(durations("speech", 3), abs=1e-3)
    for record in records:
        assert soundfile.info(record.audio).subtype == {"FLAC": "PCM_16", "Opus": "OPUS"}[kind]


def test_every_step_yields_all_the_audio(tmp_path: Path) -> None:
    manifest = data.make_corpus(tmp_path / "c", "FLAC", 2)
    expected = sum(durations("speech", 2))
    steps = dict(data._steps(manifest, data.make_augmenter(tmp_path)))
    assert sum(steps["decode"]()) == pytest.approx(expected, abs=0.01)
    assert sum(steps["+ clean"]()) == pytest.approx(expected, abs=0.01)
    audio = 0.0
    for seconds in steps["+ batch, 0 workers"]():  # endless
        audio += seconds
        if audio > 2 * expected - 0.01:
            break
    assert audio == pytest.approx(2 * expected, abs=0.01)


def test_every_change_of_the_augmentation_is_on(tmp_path: Path) -> None:
    augment = data.make_augmenter(tmp_path)
    kinds = ("speed", "room", "noise", "band", "telephone", "gain")
    assert {augment.settings[kind]["p"] for kind in kinds} == {0.5}
    wave = data.speechlike(2.0, 0)
    heard = [augment(wave, source="s", id=str(n), epoch=0)[0] for n in range(5)]
    assert any(len(h) != len(wave) or not np.array_equal(h, wave) for h in heard)


def test_memory_is_flat(capsys: pytest.CaptureFixture[str]) -> None:
    assert data.flat(600)
    assert "memory: flat" in capsys.readouterr().out


def test_speechlike_is_heard_by_the_quality_limits(tmp_path: Path) -> None:
    """The benchmark must not be fast because everything is rejected."""
    manifest = data.make_corpus(tmp_path / "c", "FLAC", 2)
    steps = dict(data._steps(manifest, data.make_augmenter(tmp_path)))
    assert len(list(steps["clean + augment"]())) == 2
    assert Utterance("x", data.speechlike(1.5, 0), "", "").seconds == 1.5
