"""Guards against invented text, and hot words: what they change, and that nothing else changes."""

import random
from pathlib import Path

import numpy as np
import pytest

import tiny_audio
from tests.infer.helpers import tones
from tiny_audio.config import GenerationConfig
from tiny_audio.data.synthetic import Synthesiser, Voice, draw_voice
from tiny_audio.errors import ConfigError
from tiny_audio.infer.commands import read_hotwords
from tiny_audio.infer.transcribe import Recogniser
from tiny_audio.model.generate import Hypothesis
from tiny_audio.model.guards import Repeats, best, is_silent, needs_fallback
from tiny_audio.model.hotwords import HotWords, Scored

pytest.importorskip("espeakng_loader", reason="needs the extra synth")

OFF = {"stop_loops": False, "no_speech_threshold": None}
FALLBACK = {"temperature_increment_on_fallback": 0.25}
SAID = [
    "two thousand", "no no no", "bye bye", "stop stop stop stop", "five five five five five five",
    "two zero zero zero", "we will go home we will go home we will go home",
]  # fmt: skip


@pytest.fixture(scope="module")
def nano() -> Recogniser:
    return tiny_audio.load("nano", device="cpu")


@pytest.fixture(scope="module")
def spoken() -> list[np.ndarray]:
    speak, rng = Synthesiser(), random.Random(5)
    return [speak(text, draw_voice(rng, "test")) for text in SAID]


@pytest.fixture(scope="module")
def looping() -> np.ndarray:
    """More of one word than the bundled pair can count: it goes on when the audio is over."""
    return Synthesiser()("five " * 20, Voice("gmw/en-US+steph3", 170, 50, 50))


def test_what_is_said_again_stays(nano: Recogniser, spoken: list[np.ndarray]) -> None:
    plain = [t.text for t in nano.transcribe(spoken, **OFF)]
    assert [t.text for t in nano.transcribe(spoken)] == plain
    assert len({*plain} & {*SAID}) >= 3  # what the pair hears right
    assert "five five five five five five" in plain


def test_a_loop_is_stopped_where_the_audio_has_no_more(
    nano: Recogniser, looping: np.ndarray
) -> None:
    endless = nano.transcribe(looping, **OFF).text.split()
    stopped = nano.transcribe(looping)
    assert len(endless) > 30
    assert 17 <= len(stopped.text.split()) <= 25
    assert not stopped.segments[0].finished
    assert nano.transcribe(looping, word_timestamps=True).text == stopped.text
    assert "".join(nano.stream(looping)) == stopped.text


@pytest.mark.parametrize("options", [{}, FALLBACK, {"hotwords": ["Okonkwo", "thousand"]}])
def test_company_changes_nothing_with_guards(
    nano: Recogniser, spoken: list[np.ndarray], looping: np.ndarray, options: dict[str, object]
) -> None:
    clips = [*spoken, looping, *tones([3.0, 1.0])]
    together = [t.text for t in nano.transcribe(clips, **options)]
    assert [nano.transcribe(clip, **options).text for clip in clips] == together
    assert [t.text for t in nano.transcribe(clips, **options)] == together


def test_sampling_is_the_same_in_any_company(recogniser: Recogniser) -> None:
    clips = tones([2.0, 0.7, 3.1])
    options = {"do_sample": True, "stop_loops": False}
    drawn = [t.text for t in recogniser.transcribe(clips, **options)]
    assert [recogniser.transcribe(clip, **options).text for clip in clips] == drawn
    assert [t.text for t in recogniser.transcribe(clips, seed=1, **options)] != drawn


@pytest.mark.parametrize("phrase", [[7], [7, 8], [3, 4, 5, 6, 9]])
@pytest.mark.parametrize("times", [3, 5, 20])
def test_true_repeats_advance_in_the_audio_and_loops_do_not(phrase: list[int], times: int) -> None:
    def stopped(advance: float) -> bool:
        repeats, ids, places = Repeats(), [1, 2], [0.0, 1.0]
        for token in phrase * times:
            ids.append(token)
            places.append(places[-1] + advance)
            repeats.add(ids)
            if repeats.looped(places, 0.08):
                return True
        return False

    assert not stopped(1.0)  # a token in 80 ms
    assert stopped(0.0) == (len(phrase) * (times - 1) >= 4 + 2 * max(len(phrase), 3))


def test_rules_are_those_of_whisper() -> None:
    options = GenerationConfig()

    def found(
        logprob: float, quiet: float = 0.0, text: str = "a", finished: bool = True
    ) -> Hypothesis:
        return Hypothesis(text, [1], logprob, finished, no_speech_prob=quiet)

    unsure, sure = found(-1.2), found(-0.5)
    assert [needs_fallback(one, options) for one in (unsure, sure)] == [True, False]
    assert [is_silent(found(lp, 0.7), options) for lp in (-1.2, -0.5)] == [True, False]
    assert not needs_fallback(found(-1.2, 0.7), options)  # silence is not tried again
    assert needs_fallback(found(-0.1, text="so it is " * 20), options)
    assert needs_fallback(found(-0.1, finished=False), options)
    assert best([unsure, sure], options) is sure
    assert best([found(-0.2, text="so it is " * 20), unsure, found(-3.0)], options) is unsure


def test_silence_is_left_out(nano: Recogniser, spoken: list[np.ndarray]) -> None:
    """A gate so low that speech falls through it, were it not for how sure the text is."""
    gate = {"no_speech_threshold": -1.0}
    assert nano.transcribe(spoken[0], **gate).text == "two thousand"
    asked = {**gate, "logprob_threshold": 0.0}
    silent = nano.transcribe(spoken[0], word_timestamps=True, **asked)
    assert (silent.text, silent.segments[0].words) == ("", [])
    assert list(nano.stream(spoken[0], **asked)) == []


def test_hot_words_are_found_and_others_left_alone(
    nano: Recogniser, spoken: list[np.ndarray]
) -> None:
    speak, rng, words = Synthesiser(), random.Random(3), ["Haraldsson", "Oyelaran", "Pellegrino"]
    named = [word.lower() for word in words for _ in range(3)]
    clips = [speak(f"have you seen {name} today", draw_voice(rng, "test")) for name in named]

    def right(**options: object) -> int:
        found = nano.transcribe(clips, **options)
        return sum(name in t.text.split() for name, t in zip(named, found, strict=True))

    assert right() == 0
    asked = {"hotwords": words, "hotwords_boost": 5.0}
    assert right(**asked) >= 3
    assert "".join(nano.stream(clips[0], **asked)) == nano.transcribe(clips[0], **asked).text
    plain = [t.text for t in nano.transcribe(spoken)]
    assert [t.text for t in nano.transcribe(spoken, hotwords=words)] == plain


def test_what_is_begun_and_not_completed_is_taken_back(nano: Recogniser) -> None:
    hot = HotWords(nano.model.tokenizer, ["kowalczyk"], 3.0)
    first, *others = hot._first[0]
    known = dict.fromkeys(hot.ids, -20.0) | {first: -2.0}
    token, match, back = hot.step(None, [], Scored(999, -0.1), known)
    assert (token.id, back) == (first, 0)
    known = dict.fromkeys(hot.ids, -20.0)
    token, match, back = hot.step(match, [first], Scored(998, -0.1), known)
    assert (token, match, back) == (Scored(999, -0.1), None, 1)
    assert others


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hotwords": [" "]}, "empty"),
        ({"hotwords": ["a"], "hotwords_boost": -1.0}, "above 0"),
        ({"hotwords": ["a"], "beams": 2}, "beam"),
        ({"temperature_increment_on_fallback": 0.0, "beams": 2}, None),
        ({"temperature_increment_on_fallback": -0.2}, "above 0"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    nano: Recogniser, spoken: list[np.ndarray], options: dict[str, object], message: str | None
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        nano.transcribe(spoken[0], **options)
    assert "\n" not in str(error.value)


def test_a_word_that_the_tokens_cannot_write_is_named(nano: Recogniser) -> None:
    class Narrow:
        def encode(self, text: str, **_: object) -> list[int]:
            return [ord(c) if ord(c) < 128 else 0 for c in text]

        def decode(self, ids: list[int]) -> str:
            return "".join(map(chr, ids))

    with pytest.raises(ConfigError, match="Łódź"):
        HotWords(Narrow(), ["Łódź"], 1.0)  # type: ignore[arg-type]
    assert HotWords(nano.model.tokenizer, ["Łódź"], 1.0).ids


def test_hot_words_of_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("Kroman\n\nGLM-ASR\n")
    assert read_hotwords(str(file)) == read_hotwords("Kroman, GLM-ASR") == ["Kroman", "GLM-ASR"]
    for wrong in ("", "a,,b", str(tmp_path / "missing.txt"), str(tmp_path)):
        with pytest.raises(ConfigError, match="--hotwords"):
            read_hotwords(wrong)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_hotwords(str(file))
    assert read_hotwords(None) == []
    with pytest.raises(ConfigError, match="--prompt"):
        read_hotwords(None, prompt="names")
