"""Whisper's file formats: what is written is what its tools read."""

import json
import os
import re
from pathlib import Path

import pytest

from tests.infer.helpers import tones, write_wav
from tiny_audio.cli import run
from tiny_audio.infer.align import Word
from tiny_audio.infer.commands import find_recordings
from tiny_audio.infer.recognise import Segment
from tiny_audio.infer.transcript import Layout, Transcript, cues, timestamp

WORDS = [
    Word(text, start, start + 0.4, 0.5)
    for text, start in (("One", 0.0), ("two.", 0.5), ("Three", 1.0), ("four", 3.0), ("-->", 3.5))
]
TRANSCRIPT = Transcript(
    "One two. Three four -->", 4.0, segments=[Segment(0.0, 4.0, "…", 9, -0.1, True, WORDS)]
)


def test_cues_end_with_sentences_and_pauses_and_hold_their_width() -> None:
    shown = [cue.text() for cue in cues(WORDS, Layout())]
    assert shown == ["One two.", "Three", "four -->"]
    narrow = list(cues([Word("word", i, i + 1, 1.0) for i in range(9)], Layout(9, 2)))
    assert [cue.text() for cue in narrow] == ["word word\nword word"] * 2 + ["word"]
    assert [(cue.start, cue.end) for cue in narrow] == [(0, 4), (4, 8), (8, 9)]


def test_srt_and_vtt() -> None:
    assert TRANSCRIPT.to_srt() == (
        "1\n00:00:00,000 --> 00:00:00,900\nOne two.\n\n"
        "2\n00:00:01,000 --> 00:00:01,400\nThree\n\n"
        "3\n00:00:03,000 --> 00:00:03,900\nfour ->\n\n"
    )
    vtt = TRANSCRIPT.to_vtt(Layout(highlight_words=True))
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:00.400\n<u>One</u> two.\n\n")
    assert "00:00:00.400 --> 00:00:00.500\nOne two.\n" in vtt
    assert timestamp(3_723.0046, ",") == "01:02:03,005"


def test_files_of_a_folder_are_written_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    for name, clip in zip(("a.wav", "deep/b.WAV"), tones([1.0, 0.7]), strict=True):
        write_wav(folder / name, clip)
    (folder / "notes.txt").write_text("no recording")
    command = ["transcribe", str(folder), "--model", "nano", "--device", "cpu"]
    to_files = [*command, "--output-dir", str(out)]
    assert run(to_files) == 0
    written = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    kinds = ("json", "srt", "tsv", "txt", "vtt")
    assert written == [f"{stem}.{kind}" for stem in ("a", "deep/b") for kind in kinds]
    found = json.loads((out / "a.json").read_text())
    assert found["text"].split() == [w["word"] for s in found["segments"] for w in s["words"]]
    rows = (out / "a.tsv").read_text().splitlines()
    assert rows[0] == "start\tend\ttext"
    assert all(re.fullmatch(r"\d+\t\d+\t.+", row) for row in rows[1:])
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    capsys.readouterr()
    assert run(to_files) == 0
    assert "2 of 2 are done already" in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    os.utime(folder / "a.wav", (2e9, 2e9))  # a newer recording is read again
    assert run([*to_files, "--output-format", "txt"]) == 0
    assert "1 of 2 are done already" in capsys.readouterr().err


def test_a_signature_in_an_address_gets_into_no_file_name() -> None:
    address = "https://user:word@example.org/talks/one.mp3?token=a.b/c"
    assert list(find_recordings([address, "-"])) == [
        (address, Path("one.mp3")),
        ("-", Path("stdin")),
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{in}", "--output-format", "doc"], "use txt, srt, vtt, tsv, json or all"),
        (["{in}/*.ogg"], "no recording is there"),
        (["{in}/a.wav", "{in}/a.flac", "--output-dir", "{in}"], "written to the same file"),
        (["{in}/a.wav", "--output-dir", "{in}/a.wav/x"], "cannot be written: Not a directory"),
        (["{in}/a.wav", "--stream", "--vad"], "leave out"),
        (["{in}/a.wav", "--json", "--output-dir", "{in}"], "use --output-format json"),
        (["{in}/a.wav", "--word-timestamps"], "shows in --json or with --output-format"),
    ],
)
def test_mistakes_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    write_wav(tmp_path / "a.wav", tones([0.5])[0])
    (tmp_path / "a.flac").write_bytes(b"")
    assert run(["transcribe", *(part.replace("{in}", str(tmp_path)) for part in arguments)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_voice_activity_leaves_out_what_is_no_speech(tmp_path: Path) -> None:
    pytest.importorskip("silero_vad", reason="needs the extra vad")
    pytest.importorskip("espeakng_loader", reason="needs the extra synth")
    import random

    import numpy as np

    import tiny_audio
    from tiny_audio.data.synthetic import Synthesiser, draw_voice
    from tiny_audio.infer.vad import VadOptions, speech_spans

    speech = Synthesiser()("please open the window", draw_voice(random.Random(2), "test"))
    noise = np.random.default_rng(0).normal(0, 1e-3, 16_000 * 12).astype(np.float32)
    whole = np.concatenate([noise, speech, noise])
    (start, end), *others = speech_spans(whole, VadOptions())
    assert not others
    assert len(noise) - 16_000 < start < len(noise) < end - len(speech) / 2 < end < len(whole)
    nano = tiny_audio.load("nano", device="cpu")
    found = nano.transcribe(whole, vad=True, word_timestamps=True)
    assert found.seconds == pytest.approx(len(whole) / 16_000)
    (segment,) = found.segments
    assert (segment.start, segment.end) == (start / 16_000, end / 16_000)
    assert segment.words[0].start > 11
    assert nano.transcribe(noise, vad=True).text == ""
    assert nano.transcribe(noise[:0], vad=True).error is not None
    long = np.zeros(16_000 * 600, np.float32)  # read in pieces; nothing is left for the last one
    assert nano.transcribe(long, vad=True).segments == []
