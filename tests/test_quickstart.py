"""The quickstart, from the first sentence to the report, only shorter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_audio.cli import run as run_cli
from tiny_audio.data.synthetic import Synthesiser, Voice, voice_names

COMMAND = [sys.executable, "-m", "tiny_audio", "quickstart", "--steps", "12", "--seed", "3"]


@pytest.mark.slow
def test_a_short_quickstart_leaves_all_it_promises(tmp_path: Path) -> None:
    import soundfile

    recording = tmp_path / "mine.wav"
    voice = Voice(voice_names("test")[0], rate=160, pitch=50, range=50)
    soundfile.write(recording, Synthesiser()("the weather is nice today", voice), 16_000)
    out = tmp_path / "run"
    run = subprocess.run(
        [*COMMAND, "--out", str(out), "--try", str(recording)],
        cwd=tmp_path,  # any folder will do
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert run.returncode == 0, run.stderr
    assert "Word error rate" in run.stdout
    assert str(recording) in run.stdout
    assert "tiny-audio transcribe" in run.stdout
    assert (out / "loss.png").stat().st_size > 5_000
    assert json.loads((out / "quickstart.json").read_text())["steps"] == 12
    assert (out / "checkpoints" / "index.json").is_file()


def test_a_missing_recording_is_said_before_anything_is_trained(tmp_path, capsys):
    arguments = ["quickstart", "--try", str(tmp_path / "none.wav"), "--out", str(tmp_path / "run")]
    assert run_cli(arguments) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
