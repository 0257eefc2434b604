"""Anything that holds sound becomes a transcript, in order; what does not holds nobody up."""

import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.infer.helpers import tones, write_wav
from tiny_audio.errors import CheckpointError, ConfigError
from tiny_audio.infer.commands import transcribe_command
from tiny_audio.infer.transcribe import Recogniser, Transcript, load, transcribe


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three clips, with a text file, an empty file and a missing one between them."""
    folder = tmp_path_factory.mktemp("audio")
    names = [write_wav(folder / f"{i}.wav", clip) for i, clip in enumerate(tones([2.0, 1.0, 3.0]))]
    (folder / "note.txt").write_text("not a recording")
    (folder / "empty.wav").write_bytes(b"")
    bad = [str(folder / name) for name in ("note.txt", "empty.wav", "missing.wav")]
    return [names[0], bad[0], bad[1], names[1], bad[2], names[2]]


def command(files: list[str], model: str, **changes: object) -> int:
    options = {"device": "cpu", "as_json": False, "stream": False, **changes}
    return transcribe_command(files, model=model, **options)  # type: ignore[arg-type]


def test_one_gives_one_and_a_list_gives_a_list(recogniser: Recogniser) -> None:
    clip = tones([1.0])[0]
    one = recogniser.transcribe(clip)
    assert isinstance(one, Transcript)
    assert one.text
    assert recogniser.transcribe([clip]) == recogniser.transcribe((clip,)) == [one]
    assert recogniser.transcribe([]) == []


def test_failed_files_are_reported_and_hold_nobody_up(
    recogniser: Recogniser, files: list[str]
) -> None:
    transcripts = recogniser.transcribe(files)
    assert [t.path for t in transcripts] == files
    assert [t.error is None for t in transcripts] == [True, False, False, True, False, True]
    for path, transcript in zip(files, transcripts, strict=True):
        if transcript.error is None:
            assert transcript.text == recogniser.transcribe(path).text != ""
        else:
            assert (transcript.text, transcript.seconds, transcript.segments) == ("", 0.0, [])
            assert "\n" not in transcript.error
            assert Path(path).name in transcript.error


def test_every_form_of_the_same_sound_gives_the_same(
    recogniser: Recogniser, files: list[str]
) -> None:
    clip = tones([2.0, 1.0, 3.0])[0]
    expected = recogniser.transcribe(clip)
    data = Path(files[0]).read_bytes()
    forms = [files[0], Path(files[0]), data, io.BytesIO(data), torch.from_numpy(clip)]
    forms.append(np.stack([clip, clip]))  # stereo
    for transcript in recogniser.transcribe(forms):
        assert (transcript.text, transcript.seconds) == (expected.text, expected.seconds)


def test_other_rates_keep_their_length(recogniser: Recogniser, tmp_path: Path) -> None:
    clip = tones([2.0])[0]
    path = write_wav(tmp_path / "cd.wav", np.stack([clip, clip], axis=1), rate=44_100)
    from_file = recogniser.transcribe(path)
    from_array = recogniser.transcribe(np.stack([clip, clip]), sample_rate=44_100)
    assert from_file.seconds == pytest.approx(len(clip) / 44_100, abs=0.001)
    assert (from_file.text, from_file.error) == (from_array.text, None)


def test_silence_one_sample_and_nan(recogniser: Recogniser) -> None:
    silence, blip, broken, nothing = recogniser.transcribe(
        [np.zeros(16_000), np.zeros(1), np.full(16_000, np.nan), np.zeros(0)]
    )
    assert silence.error is None
    assert (blip.error, blip.text, blip.segments) == (None, "", [])
    assert broken.error is not None
    assert nothing.error is not None


def test_a_loaded_checkpoint_writes_the_same(recogniser: Recogniser, checkpoint: str) -> None:
    clips = tones([1.0, 2.0])
    assert load(checkpoint, device="cpu").transcribe(clips) == recogniser.transcribe(clips)
    assert transcribe(clips[0], model=checkpoint) == recogniser.transcribe(clips[0])


def test_command_prints_a_line_a_file(
    files: list[str], checkpoint: str, recogniser: Recogniser, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = recogniser.transcribe(files)
    for stream in (False, True):
        assert command(files, checkpoint, stream=stream) == 1
        said = capsys.readouterr()
        assert said.out == "".join(f"{t.path}: {t.text}\n" for t in expected if t.error is None)
        assert said.err == "".join(f"{t.error}\n" for t in expected if t.error)


def test_command_prints_json(
    files: list[str], checkpoint: str, recogniser: Recogniser, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(files, checkpoint, as_json=True) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line, transcript in zip(lines, recogniser.transcribe(files), strict=True):
        assert set(line) == {"path", "seconds", "text", "logprob", "segments", "error"}
        assert line["text"] == transcript.text
        for segment in line["segments"]:
            fields = {"start", "end", "text", "tokens", "logprob", "finished", "words"}
            fields |= {"no_speech_prob", "temperature"}
            assert set(segment) == fields
            assert 0 <= segment["start"] < segment["end"] <= line["seconds"]
            assert math.isfinite(segment["logprob"])


def test_command_reads_standard_input(
    files: list[str],
    checkpoint: str,
    recogniser: Recogniser,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open(files[0], "rb") as raw, io.TextIOWrapper(io.BufferedReader(raw)) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert command(["-"], checkpoint) == 0
    assert capsys.readouterr().out == recogniser.transcribe(files[0]).text + "\n"
    monkeypatch.setattr(sys, "stdin", None)  # as Python finds it after `<&-`
    with pytest.raises(ConfigError, match="standard input is closed"):
        command(["-"], checkpoint)


def test_command_refuses_what_cannot_be(files: list[str], checkpoint: str) -> None:
    for change in ({"as_json": True}, {"beams": 4}):
        with pytest.raises(ConfigError, match="--stream"):
            command(files, checkpoint, stream=True, **change)
    with pytest.raises(CheckpointError):
        command(files, str(Path(files[0]).parent))
    for change in ({"max_utterances": -1}, {"batch_seconds": 0.0}, {"batch_seconds": math.nan}):
        with pytest.raises(ConfigError, match="above 0"):
            command(files, checkpoint, **change)
