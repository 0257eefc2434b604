"""`tiny-audio doctor`: quick, honest, silent about secrets."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hub.server import Hub


def doctor(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tiny_audio", "doctor"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_machine_that_works(hub: Hub, tmp_path: Path) -> None:
    env = hub.environ(tmp_path / "home", token="hf_secret") | {"COLUMNS": "80"}
    begin = time.perf_counter()
    done = doctor(env)
    seconds = time.perf_counter() - begin
    assert done.returncode == 0, done.stdout
    assert "Tiny Audio works on this machine." in done.stdout
    assert f"{hub.url} answers" in done.stdout
    assert "Hugging Face there" in done.stdout
    assert "hf_secret" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert [request.method for request in hub.requests] == ["HEAD"]
    assert seconds < 9  # three on a machine with nothing else to do
    assert not (tmp_path / "home").exists()


def test_what_is_away_is_said_and_is_no_failure(hub: Hub, tmp_path: Path) -> None:
    hub.stop()
    done = doctor(hub.environ(tmp_path / "home"))
    assert done.returncode == 0
    assert f"{hub.url} cannot be reached" in " ".join(done.stdout.split())
    done = doctor(hub.environ(tmp_path / "home", offline=True))
    assert "HF_HUB_OFFLINE is set" in done.stdout


@pytest.mark.parametrize("version", ["0.1", None], ids=["old", "good"])
def test_a_package_that_is_too_old_is_named(hub: Hub, tmp_path: Path, version: str | None) -> None:
    """A distribution of another version that Python finds first."""
    if version is not None:
        info = tmp_path / f"accelerate-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: accelerate\nVersion: {version}\n"
        )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = doctor(hub.environ(tmp_path / "home") | {"PYTHONPATH": path})
    assert done.returncode == (0 if version is None else 1)
    assert ("accelerate 0.1 (needs >=1.10)" in " ".join(done.stdout.split())) == (version == "0.1")
