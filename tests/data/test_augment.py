"""Augmentation: each change does what it says, and is a function of seed, pass and sample alone."""

import json
import pickle
import random
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.data.helpers import make_corpus, make_stream, noise, open_one, spec, take, write_manifest
from tests.data.test_loader import same
from tests.train.helpers import rows, run, write_set
from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.compose import compose
from tiny_audio.config import AugmentConfig
from tiny_audio.data.augment import Augmenter, open_augmenter
from tiny_audio.data.sources import open_sources
from tiny_audio.errors import ConfigError, DataError, MissingExtraError
from tiny_audio.model.batch import IGNORE
from tiny_audio.train.components import find_augmentation

pytest.importorskip("audiomentations")

CHANGES = ("speed", "room", "noise", "band", "telephone", "gain")


@pytest.fixture(scope="module")
def noises(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two noises, one of them shorter than most speech."""
    folder = tmp_path_factory.mktemp("noises")
    for n, seconds in enumerate((0.5, 8.0)):
        soundfile.write(folder / f"n{n}.wav", 0.5 * noise(seconds, 70 + n), 16_000)
    return folder


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A direct sound after 5 ms, and what decays behind it."""
    folder = tmp_path_factory.mktemp("rooms")
    tail = noise(0.4, 80) * np.exp(-np.arange(6_400) / 1_000)
    response = np.concatenate([np.zeros(80), [1.0], tail]).astype(np.float32)
    soundfile.write(folder / "hall.wav", response, 16_000, subtype="FLOAT")
    return folder


def augmenter(*, seed: int = 3, limits: tuple[float, float] = (0.2, 30.0), repeats=0, **changes):
    config = asdict(AugmentConfig())
    for name, value in changes.items():
        config[name] = config[name] | value if isinstance(value, dict) else value
    low, high = limits
    opened = open_augmenter(config, seed=seed, min_seconds=low, max_seconds=high, repeats=repeats)
    return opened


def everything(noises: Path, rooms: Path, **more: Any) -> Augmenter:
    """Every kind of change with its usual range, each on half of the clips."""
    changes: dict[str, Any] = {kind: {"p": 0.5} for kind in CHANGES} | {"noise_only": 0.2}
    changes["noise"]["path"], changes["room"]["path"] = str(noises), str(rooms)
    return augmenter(**(changes | more))


def apply(change: Augmenter, waveform: np.ndarray, id: str = "a", epoch: int = 0) -> np.ndarray:
    return change(waveform, source="s", id=id, epoch=epoch)[0]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("corpora")
    return [str(make_corpus(folder / name, 12, seed=ord(name), prefix=name)) for name in "ab"]


def stream_of(corpora: list[str], prompt, change: Augmenter | None, **values: Any):
    sources = open_sources({path: spec(path=path) for path in corpora}, key="data.train")
    return make_stream(sources, prompt, augment=change, **values)


def test_bit_for_bit_with_any_number_of_workers_and_after_a_resume(corpora, prompt, noises, rooms):
    change = everything(noises, rooms, transforms=[{"name": "TanhDistortion", "p": 0.5}])
    whole = take(stream_of(corpora, prompt, change), 4)
    stopped = stream_of(corpora, prompt, change, num_workers=2)
    first = take(stopped, 2)
    again = stream_of(corpora, prompt, change)
    again.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert same(whole, first + take(again, 2))
    assert not same(whole[:1], take(stream_of(corpora, prompt, None), 1))


def test_another_seed_pass_sample_or_source_is_changed_otherwise(noises, rooms):
    clip = noise(1.0, 1)
    kinds = {kind: {"p": 1.0} for kind in ("speed", "gain", "noise")}
    kinds["noise"]["path"] = str(noises)
    change = augmenter(**kinds)
    drawn = [apply(change, clip, id=i, epoch=e) for i in ("a", "b", "c") for e in range(4)]
    drawn += [apply(augmenter(seed=s, **kinds), clip) for s in range(8) if s != 3]
    drawn += [change(clip, source=s, id="a", epoch=0)[0] for s in "tuvw"]
    assert len({one.tobytes() for one in drawn}) == len(drawn)
    assert np.array_equal(apply(change, clip), apply(augmenter(**kinds), clip))
    again = augmenter(repeats=2, **kinds)
    assert np.array_equal(apply(again, clip, epoch=3), apply(change, clip, epoch=1))


def test_neither_order_nor_process_nor_random_states_nor_other_kinds_matter(noises, rooms):
    clips = {f"c{n}": noise(0.5 + n / 10, n) for n in range(6)}
    change = everything(noises, rooms, transforms=[{"name": "Shift", "p": 1.0}])
    forward = {name: apply(change, clip, name) for name, clip in clips.items()}
    again = pickle.loads(pickle.dumps(change))
    for name in reversed(clips):
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        assert np.array_equal(apply(again, clips[name], name), forward[name])
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before[:2]
        assert torch.equal(torch.get_rng_state(), before[2])
        random.seed(name)
        np.random.seed(len(name))
    gain = augmenter(gain={"p": 1.0})
    both = augmenter(gain={"p": 1.0}, transforms=[{"name": "PolarityInversion", "p": 1.0}])
    for name, clip in clips.items():
        assert np.array_equal(apply(gain, clip, name), -apply(both, clip, name))


def tone(hertz: float, seconds: float = 1.0, level: float = 0.3) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


def band_db(waveform: np.ndarray, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))) ** 2
    hertz = np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE)
    return 10 * float(np.log10(power[(hertz >= low) & (hertz < high)].sum() + 1e-20))


@pytest.mark.parametrize("snr", [-10.0, 7.5, 40.0])
def test_noise_lowers_the_snr_to_what_was_asked(tmp_path: Path, snr: float):
    soundfile.write(tmp_path / "n.wav", noise(8.0, 70), 16_000, subtype="FLOAT")
    change = augmenter(noise={"p": 1.0, "path": str(tmp_path), "range": [snr, snr]})
    for n, seconds in enumerate((0.3, 1.0, 5.0)):
        speech = tone(300, seconds, level=0.01)
        added = apply(change, speech, str(n)) - speech
        assert 20 * np.log10(rms(speech) / rms(added)) == pytest.approx(snr, abs=0.01)


@pytest.mark.parametrize(("factor", "seconds"), [(0.5, 6.0), (1.1, 1.0), (2.0, 0.3)])
def test_speed_moves_length_and_pitch_alike_within_the_limits(factor: float, seconds: float):
    speed, clip = {"p": 1.0, "range": [factor, factor]}, tone(1_000, seconds)
    fast = apply(augmenter(speed=speed, limits=(0.1, 20.0)), clip)
    assert len(fast) == pytest.approx(len(clip) / factor, rel=1e-3)
    crossings = np.count_nonzero(np.diff(np.sign(fast)))
    assert crossings / len(fast) * SAMPLE_RATE == pytest.approx(2_000 * factor, rel=1e-2)
    limited = apply(augmenter(speed=speed, limits=(0.2, 10.0)), clip)
    assert len(limited) == (len(fast) if factor == 1.1 else len(clip))


def test_a_room_equals_the_convolution_and_moves_nothing(rooms: Path):
    speech, (response, _) = noise(1.0, 1), soundfile.read(rooms / "hall.wav", dtype="float32")
    wet = apply(augmenter(room={"p": 1.0, "path": str(rooms)}), speech)
    delay = int(np.abs(response).argmax())
    direct = np.convolve(speech, response)[delay : delay + len(speech)]
    assert wet.shape == speech.shape
    assert np.corrcoef(wet, direct)[0, 1] > 0.999999
    assert rms(wet) == pytest.approx(rms(speech), rel=1e-4)


@pytest.mark.parametrize("edge", [1_500.0, 6_500.0])
def test_a_band_keeps_what_is_below_and_removes_what_is_above(edge: float):
    wide, kept = noise(2.0, 0), 0.85 * edge
    narrow = apply(augmenter(band={"p": 1.0, "range": [edge, edge]}), wide)
    assert band_db(narrow, 100, kept) == pytest.approx(band_db(wide, 100, kept), abs=0.5)
    assert band_db(narrow, 1.15 * edge, 8_001) < band_db(wide, 1.15 * edge, 8_001) - 20
    assert len(narrow) == len(wide)
    assert np.abs(np.correlate(narrow, wide[9:-9])).argmax() == 9  # no delay


def test_a_telephone_is_narrow_and_coarse():
    change = augmenter(telephone={"p": 1.0})
    wide = noise(2.0, 0)
    line = apply(change, wide)
    assert len(line) == len(wide)
    assert band_db(line, 4_200, 8_000) < band_db(wide, 4_200, 8_000) - 40
    assert band_db(line, 20, 150) < band_db(wide, 20, 150) - 20
    assert band_db(line, 500, 3_000) == pytest.approx(band_db(wide, 500, 3_000), abs=1)
    clean = tone(1_030)  # whose samples take many values
    error = (apply(change, clean) - clean)[800:-800]
    assert 30 < 20 * np.log10(rms(clean) / rms(error)) < 45  # of 8 bits


def test_gain_is_in_decibels_and_never_beyond_full_scale():
    speech = tone(300)
    softer = apply(augmenter(gain={"p": 1.0, "range": [-6.0, -6.0]}), speech)
    assert rms(softer) == pytest.approx(rms(speech) * 10**-0.3, rel=1e-5)
    loud = apply(augmenter(gain={"p": 1.0, "range": [40.0, 40.0]}), speech)
    assert np.abs(loud).max() == pytest.approx(1.0)


@pytest.mark.parametrize("clip", [np.zeros(8_000, np.float32), noise(0.25, 0), noise(2.0, 1) * 5])
def test_whatever_the_clip_the_result_is_finite_and_within_full_scale(clip, noises, rooms):
    change = everything(noises, rooms)
    for n in range(20):
        changed = apply(change, clip, str(n))
        assert changed.dtype == np.float32
        assert np.isfinite(changed).all()
        assert changed is clip or np.abs(changed).max() <= 1


@pytest.mark.slow
def test_a_run_evaluates_on_what_was_recorded(tmp_path, noises, rooms):
    """With weights that stand still only the training loss tells whether clips were changed."""
    data = write_set(tmp_path / "set")
    still = ("training.max_steps=1", "training.learning_rate=1e-30", "training.eval_steps=1")
    changes = [f"data.augment.{kind}.p=1" for kind in CHANGES]
    changes += [f"data.augment.noise.path={noises}", f"data.augment.room.path={rooms}"]
    plain, changed = tmp_path / "plain", tmp_path / "changed"
    run(data, plain, *still)
    run(data, changed, *still, *changes)
    assert [row["loss"] for row in rows(plain)] != [row["loss"] for row in rows(changed)]
    plain_eval, changed_eval = rows(plain, "eval"), rows(changed, "eval")
    assert [row["eval_loss"] for row in plain_eval] == [row["eval_loss"] for row in changed_eval]


def test_rejects_do_not_depend_on_augmentation(tmp_path, prompt, noises, rooms):
    """Not even where a sample whose label is too long would be heard as noise only."""
    make_corpus(tmp_path, 20)
    rows = [{"audio_filepath": f"u{n:03d}.wav", "text": "x" * (60 + n % 8)} for n in range(20)]
    path = str(write_manifest(tmp_path / "m.jsonl", rows))
    found = []
    for change in (None, everything(noises, rooms, noise_only=1.0)):
        stream = make_stream([open_one(path=path)], prompt, augment=change)
        for _ in stream:
            if stream.epoch > 1.5:
                break
        found.append((stream.rejects.seen, dict(stream.rejects.reasons)))
    assert found[0] == found[1]
    assert found[0][1]["label_too_long"] > 0


def test_noise_alone_reaches_the_loss_as_an_end_token(corpora, prompt, noises):
    change = augmenter(noise_only=0.4, noise={"path": str(noises), "range": [20.0, 20.0]})

    def clips(change: Augmenter | None, count: int):
        for batch in take(stream_of(corpora, prompt, change), count):
            for row, (id, text) in enumerate(zip(batch.ids, batch.texts, strict=True)):
                learned = batch.labels[row][batch.labels[row] != IGNORE].tolist()
                yield id, text, batch.waveform[row, : batch.waveform_lengths[row]], learned

    plain = {id: (text, waveform) for id, text, waveform, _ in clips(None, 5)}
    silent = []
    for id, text, now, learned in clips(change, 10):
        silent.append(not text)
        was, waveform = plain[id]
        if text:
            assert (text, learned[-1]) == (was, prompt.end_id)
            assert torch.equal(now, waveform)
        else:
            assert learned == [prompt.end_id]
            level = 10 * np.log10(float(now.square().mean() / waveform.square().mean()))
            assert level == pytest.approx(-20, abs=1.0)  # a short noise is repeated
            assert abs(np.corrcoef(now, waveform)[0, 1]) < 0.1
    assert 0.2 < np.mean(silent) < 0.6


def test_a_missing_folder_ends_a_run_before_its_model_is_built(tmp_path: Path):
    where = tmp_path / "gone"
    settings = ["model=tiny", "output_dir=x", "data.augment.noise.p=0.5"]
    opened = [*settings, f"data.augment.noise.path={where}"]
    with pytest.raises(DataError, match=r"gone is no folder, .*: set data\.augment\.noise"):
        find_augmentation(compose(opened))
    with pytest.raises(ConfigError, match=r"set data\.augment\.noise\.path=DIR"):
        find_augmentation(compose(settings))
    where.mkdir()
    with pytest.raises(DataError, match="gone has no recordings"):
        find_augmentation(compose(opened))
    assert find_augmentation(compose(["model=tiny", "output_dir=x"])) is None


def test_a_bad_noise_leaves_clips_as_they_are_with_a_warning(tmp_path: Path, caplog):
    soundfile.write(tmp_path / "c.wav", noise(1.0, 0), 16_000)
    soundfile.write(tmp_path / "b.wav", np.zeros(16_000), 16_000)  # the library warns of silence
    soundfile.write(tmp_path / "d.wav", np.zeros(0), 16_000)
    (tmp_path / "e.wav").write_bytes(b"no audio")
    change = augmenter(noise={"p": 1.0, "path": str(tmp_path)}, noise_only=0.5)
    clip = noise(0.5, 1)
    found = [change(clip, source="s", id=str(n), epoch=0) for n in range(60)]
    assert 20 < sum(wave is clip for wave, _ in found) < 55
    warned = [text for text in caplog.messages if "cannot be used" in text]
    assert {text.split("/")[-1][:5] for text in warned} == {"d.wav", "e.wav"}
    assert len(warned) == 2


def test_manifests_name_recordings(tmp_path: Path):
    soundfile.write(tmp_path / "x.wav", noise(1.0, 0), 16_000)
    manifest = write_manifest(tmp_path / "m.jsonl", [{"audio_filepath": "x.wav", "kind": "noise"}])
    change = augmenter(noise={"p": 1.0, "path": str(manifest)})
    assert not np.array_equal(apply(change, noise(0.5, 1)), noise(0.5, 1))
    manifest.write_text('{"path": "y.wav"}\n')
    with pytest.raises(DataError, match=r"no manifest with audio_filepath"):
        augmenter(noise={"p": 1.0, "path": str(manifest)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gain": {"p": 1.5}}, r"gain\.p=1\.5 is a probability"),
        ({"gain": {"range": [3.0]}}, r"gain\.range=\[3\.0\]: write \[lowest,highest\]"),
        ({"speed": {"range": [0.0, 1.0]}}, r"speed\.range.*within 0\.5 and 2"),
        ({"room": {"range": [0.0, 1.0]}}, "room.range has no meaning"),
        ({"gain": {"path": "x"}}, "gain.path has no meaning"),
        ({"noise_only": 0.1}, r"noise needs recordings"),
    ],
)
def test_settings_without_sense_are_refused(change: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        augmenter(**change)


def test_transforms_are_found_by_name_or_refused():
    with pytest.raises(ConfigError, match=r"has no .*'PitchShft'"):
        augmenter(transforms=[{"name": "PitchShft"}])
    with pytest.raises(ConfigError, match=r"PitchShift.*unexpected keyword argument 'q'"):
        augmenter(transforms=[{"name": "PitchShift", "q": 1}])
    settings = "data.augment.transforms=[{name: PolarityInversion, p: 1.0}]"
    change = find_augmentation(compose(["model=tiny", "output_dir=x", settings]))
    clip = noise(0.5, 0)
    assert np.array_equal(apply(change, clip), -clip)


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "audiomentations", None)
    with pytest.raises(MissingExtraError, match=r"pip install '.\[augment\]'"):
        augmenter(gain={"p": 0.1})
    assert find_augmentation(compose(["model=tiny", "output_dir=x"])) is None
