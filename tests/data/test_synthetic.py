"""Synthetic speech: the same samples for ever, two splits that share nothing, sane waveforms."""

import hashlib
import os
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest

from tiny_audio.data import synthetic
from tiny_audio.data.grammar import (
    is_test_text,
    number_words,
    ordinal_words,
    past,
    plural,
    sentences,
)
from tiny_audio.data.records import Utterance
from tiny_audio.data.synthetic import (
    SAMPLE_RATE,
    Synthesiser,
    Voice,
    draw_voice,
    resample,
    synthetic_utterances,
    voice_names,
)
from tiny_audio.errors import DataError, MissingExtraError

COUNT = 12
VOICE = Voice("gmw/en-US+f2", rate=170, pitch=50, range=50)


@pytest.fixture(scope="module")
def spoken() -> dict[str, list[Utterance]]:
    pytest.importorskip("espeakng_loader")
    return {split: list(synthetic_utterances(split, 3, count=COUNT)) for split in ("train", "test")}


def test_another_process_gives_the_same_samples_and_leaves_no_file(spoken, tmp_path):
    """Also where it is killed: atexit hooks run neither in worker processes nor after a kill."""
    code = (
        "import hashlib, os\n"
        "from tiny_audio.data.synthetic import synthetic_utterances\n"
        f"spoken = synthetic_utterances('test', 3, count={COUNT})\n"
        "print(*(hashlib.sha256(u.waveform.tobytes()).hexdigest() for u in spoken), flush=True)\n"
        "os._exit(9)\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    here = [hashlib.sha256(u.waveform.tobytes()).hexdigest() for u in spoken["test"]]
    assert (run.returncode, run.stdout.split()) == (9, here)
    assert not list(tmp_path.iterdir())
    other = synthetic_utterances("train", 4, count=COUNT)
    assert not {u.text for u in other} & {u.text for u in spoken["train"]}


def test_neither_order_nor_threads_change_a_sample():
    pytest.importorskip("espeakng_loader")
    rng = random.Random(0)
    work = [(text, draw_voice(rng, "train")) for text in islice(sentences(1), 8)]
    speak = Synthesiser()
    alone = [speak(*one).tobytes() for one in work]
    again = Synthesiser()
    assert [again(*one).tobytes() for one in reversed(work)] == alone[::-1]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda one: speak(*one).tobytes(), work))
    assert together == alone


def test_the_splits_share_neither_voices_nor_texts(spoken):
    names = {split: set(voice_names(split)) for split in ("train", "test")}
    assert len(names["train"]) > 500  # variants times accents
    assert len(names["test"]) >= 40
    variants = {split: {name.partition("+")[2] for name in names[split]} for split in names}
    assert not variants["train"] & variants["test"]
    for split, utterances in spoken.items():
        assert {u.speaker for u in utterances} <= names[split]
        assert {is_test_text(u.text) for u in utterances} == {split == "test"}


def test_every_voice_exists():
    """One accent for every variant, one variant for every accent: each is really another voice."""
    pytest.importorskip("espeakng_loader")
    speak = Synthesiser()
    said = set()
    for split in ("train", "test"):
        names = voice_names(split)
        for name in {*names[:: len(synthetic.ACCENTS)], *names[: len(synthetic.ACCENTS)]}:
            said.add(speak("good morning", Voice(name, 170, 50, 50)).tobytes())
    assert len(said) > 60


def test_unknown_splits_and_voices_are_named():
    pytest.importorskip("espeakng_loader")
    with pytest.raises(DataError, match="has the splits train and test, no split 'dev'"):
        next(synthetic_utterances("dev", 0))
    speak = Synthesiser()
    for name in ("gmw/en+nobody", "xx/none", "xx/none+f2", ""):
        with pytest.raises(DataError, match=re.escape(f"no voice {name!r}")):
            speak("hello", Voice(name, 170, 50, 50))
    assert len(speak("hello", VOICE))


def test_without_espeak_the_command_that_helps_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    voice_names.cache_clear()
    for attempt in (Synthesiser, lambda: next(synthetic_utterances("train", 0))):
        with pytest.raises(MissingExtraError, match=r"pip install '.\[synth\]'"):
            attempt()


def test_waveforms_are_speech(spoken):
    """16 kHz mono: finite, not clipped, neither silent nor loud noise, as long as their words."""
    for u in spoken["train"] + spoken["test"]:
        assert u.waveform.dtype == np.float32
        assert u.waveform.ndim == 1
        assert np.isfinite(u.waveform).all()
        assert np.mean(np.abs(u.waveform) >= 0.9999) < 1e-3, u.speaker
        assert 0.005 < np.sqrt(np.mean(u.waveform**2)) < 0.5, u.speaker
        assert 0.3 <= u.seconds <= 12.0
        assert u.seconds == len(u.waveform) / SAMPLE_RATE
        letters = len(u.text.replace(" ", ""))
        assert 3 < letters / u.seconds < 30, (u.text, u.speaker)


def test_rate_and_pitch_are_heard():
    pytest.importorskip("espeakng_loader")
    speak = Synthesiser()
    text = "the weather in the mountains is lovely this evening"
    slow, fast = (speak(text, Voice(VOICE.name, rate, 50, 50)) for rate in (125, 215))
    assert 1.3 < len(slow) / len(fast) < 2.2
    low, high = (speak(text, Voice(VOICE.name, 170, pitch, 50)) for pitch in (10, 90))
    assert period(low) > 1.2 * period(high)


def period(waveform: np.ndarray) -> int:
    """Lag in samples of the autocorrelation's peak between 60 and 500 Hz."""
    spectrum = np.abs(np.fft.rfft(waveform, 2 * len(waveform))) ** 2
    low, high = SAMPLE_RATE // 500, SAMPLE_RATE // 60
    return low + int(np.argmax(np.fft.irfft(spectrum)[low:high]))


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
@pytest.mark.parametrize("hertz", [220.0, 3_100.0, 10_000.0])
def test_resampling_keeps_a_tone_and_lets_nothing_above_the_band_through(rate: int, hertz: float):
    if hertz > rate / 2:
        return
    tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(rate + 77) / rate)
    ours = resample(tone, rate)
    assert ours.dtype == np.float32
    assert len(ours) == len(tone) * SAMPLE_RATE // rate
    inside = slice(2_000, 14_000)  # the tone's hard ends ring in any resampler
    exact = 0.5 * np.sin(2 * np.pi * hertz * np.arange(len(ours)) / SAMPLE_RATE)
    expected = exact if hertz < 8_000 else np.zeros_like(exact)
    np.testing.assert_allclose(ours[inside], expected[inside], atol=2e-3)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(islice(sentences(0), 5_000))


def test_texts_are_many_and_lower_case_words_and_apostrophes(texts):
    for text in texts:
        assert re.fullmatch(r"[a-z']+( [a-z']+)*", text), text
        assert len(text.split()) <= 30
    assert len({word for text in texts for word in text.split()}) >= 2_000
    assert len(set(texts)) > 4_500
    assert list(islice(sentences(0), 100)) == texts[:100]


def test_sentences_have_the_forms_of_english(texts):
    """Plurals, articles, participles, no "one litres", no date that no calendar has."""
    wrong = re.compile(
        r"\b(\w+(?:x|ch|sh)s|\w+[^aeiou ]ys|(?:potato|tomato)s"  # peachs, cherrys, potatos
        r"|a [aeio]\w*|an (?:[^aeiouh]|useful|useless)\w*"
        r"|(?:about|for|costs|that) one (?:metres|minutes|days|pounds|degrees|\w+s) "
        r"|thirt(?:y first|ieth) of february|thirty first of (?:april|june|september|november)"
        r"|had \w+ (?:took|broke|forgot|wrote|saw|knew|gave|drew|threw|chose|hid)"
        r"|(?:did|didn't want to|could you) \w*(?:took|found|bought|lost)"
        r"|would you like (?:some )?(\w+) with your \2)\b"
    )
    assert not [text for text in texts if wrong.search(text)]


def test_regular_forms_and_numbers_follow_the_rules():
    plurals = "peach/peaches cherry/cherries potato/potatoes day/days bus/buses box/boxes"
    pasts = "carry/carried move/moved fix/fixed enjoy/enjoyed study/studied"
    for rule, forms in ((plural, plurals), (past, pasts)):
        for base, _, expected in (form.partition("/") for form in forms.split()):
            assert rule(base) == expected
    cardinals = {0: "zero", 12: "twelve", 31: "thirty one", 700: "seven hundred"}
    cardinals[12_345] = "twelve thousand three hundred forty five"
    assert {number: number_words(number) for number in cardinals} == cardinals
    ordinals = {1: "first", 12: "twelfth", 20: "twentieth", 31: "thirty first"}
    assert {number: ordinal_words(number) for number in ordinals} == ordinals
