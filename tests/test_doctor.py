"""`tiny-audio doctor`: quick, honest, silent about secrets."""

import resource
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.hub.server import Hub
from tiny_audio.doctor import doctor_command


def test_a_machine_that_works(hub: Hub, tmp_path: Path) -> None:
    env = hub.environ(tmp_path / "home", token="hf_secret") | {"COLUMNS": "80"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "tiny_audio", "doctor"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout
    assert "Tiny Audio works on this machine." in done.stdout
    assert f"{hub.url} answers" in done.stdout
    assert "a token for gated models" in done.stdout
    assert "hf_secret" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert [request.method for request in hub.requests] == ["HEAD"]
    assert used.ru_utime - before.ru_utime < 9
    assert not (tmp_path / "home").exists()


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_what_is_away_is_said_and_is_no_failure(hub, monkeypatch, capsys):
    assert doctor_command() == 0
    assert "HF_HUB_OFFLINE is set" in said(capsys)
    hub.stop()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    assert doctor_command() == 0
    assert f"{hub.url} cannot be reached" in said(capsys)


def test_a_package_that_is_too_old_is_named(tmp_path, monkeypatch, capsys):
    """A distribution of another version that Python finds first."""
    (tmp_path / "accelerate-0.1.dist-info").mkdir()
    about = "Metadata-Version: 2.1\nName: accelerate\nVersion: 0.1\n"
    (tmp_path / "accelerate-0.1.dist-info" / "METADATA").write_text(about)
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor_command() == 1
    assert "accelerate 0.1 (needs >=1.10)" in said(capsys)
