"""Whatever the hub, the network or the disk refuses is one line: what, where, what to do."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.hub.client import QUICK, Result, commands
from tests.hub.server import Hub

FETCH = """
import sys
from tiny_audio.errors import TinyAudioError
from tiny_audio.model.weights import find_tensors, read_matching
for name in sys.argv[1:]:
    try:
        tensors = read_matching(find_tensors(name, None, "audio_tower"), "audio_tower", "")
        print(sum(value.sum().item() for value in tensors.values()))
    except TinyAudioError as error:
        print(f"error: {error}")
"""


def train(*settings: str) -> list[str]:
    return ["train", "data=folder", "data.path=speech", "output_dir=failed", *QUICK, *settings]


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    (tmp_path / "speech").mkdir()
    for name in "ab":  # the data is opened first, and only looked at
        (tmp_path / "speech" / f"{name}.wav").write_bytes(b"RIFF")
        (tmp_path / "speech" / f"{name}.txt").write_text("word")
    return tmp_path


def one_line(result: Result) -> str:
    assert result.status == 2, result
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("error: ")
    return result.err


@pytest.mark.slow
def test_what_the_hub_refuses(hub: Hub, speech: Path) -> None:
    hub.create("them/gated", {"config.json": b"{}"}, gated=True)
    hub.create("them/private", {"config.json": b"{}"}, private=True)
    hub.create("them/open", {"config.json": b"{}"})
    gated, private, revision, wrong = commands(
        hub.environ(speech / "home"),
        speech,
        train("model.encoder.id=them/gated"),
        train("model.encoder.id=them/private"),
        train("model.encoder.id=them/open", "model.encoder.revision=v9"),
        ["transcribe", "speech/a.wav", "--model", "nobody/nothing"],
    )
    assert (
        f"accept its terms on {hub.url}/them/gated, then log in with 'hf auth login'"
        in one_line(gated)
    )
    for result, name in ((private, "them/private"), (wrong, "nobody/nothing")):
        line = one_line(result)
        assert f"{name}: there is no such model on the hub, or it is private" in line
        assert "hf auth login" in line
    assert "them/open: has no revision 'v9'" in one_line(revision)


@pytest.mark.slow
def test_a_token_that_opens_nothing_is_said_and_never_shown(hub: Hub, speech: Path) -> None:
    hub.add_user("me", "hf_secret")
    hub.create("them/gated", {"config.json": b"{}"}, gated=True)
    env = hub.environ(speech / "home", token="hf_secret")
    (refused,) = commands(env, speech, train("model.encoder.id=them/gated"))
    assert "the token in use does not open it" in one_line(refused)
    hub.grant("them/gated", "me")
    (granted,) = commands(env, speech, ["-v", *train("model.encoder.id=them/gated")])
    assert "gated" not in granted.err.splitlines()[-1].removeprefix("error: them/gated")
    for file in speech.rglob("*"):
        assert not file.is_file() or b"hf_secret" not in file.read_bytes(), file


@pytest.fixture(scope="module")
def weights() -> bytes:
    """Of a checkpoint whose tower of 64 MB takes four blocks."""
    torch.manual_seed(0)
    tensors = {f"audio_tower.layers.{n}.weight": torch.randn(2_000_000) for n in range(8)}
    return save(tensors | {"language_model.weight": torch.randn(8_000_000)})


@pytest.fixture
def large(hub: Hub, weights: bytes) -> str:
    hub.create("us/large", {"config.json": b"{}", "model.safetensors": weights})
    return "us/large"


TOWER = 64_000_000


def fetch(hub: Hub, home: Path, *repos: str) -> subprocess.Popen[str]:
    """A process that reads the audio tower of each and says its sum, or what is wrong."""
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, *repos],
        env=hub.environ(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.splitlines()


def tower_bytes(hub: Hub, begin: int) -> int:
    """Bytes of weights that were sent since a request."""
    asked = hub.requests[begin:]
    return sum(r.sent for r in asked if "/cdn/" in r.path and r.path.endswith(".safetensors"))


@pytest.mark.slow
def test_files_that_are_there_whole_damaged_or_something_else(hub, large, weights, tmp_path):
    home = tmp_path / "home"
    hub.create("us/whole", {"config.json": b"{}", "model.safetensors": weights})
    hub.create("us/page", {"config.json": b"{}", "model.safetensors": b"<html>" * 100})
    expected, page = finish(fetch(hub, home, large, "us/page"))
    assert "'model.safetensors' is not a safetensors file" in page
    (file,) = (home / "assets").rglob("*.safetensors")
    os.truncate(file, file.stat().st_size // 2)
    hf = Path(sys.executable).with_name("hf")
    subprocess.run(
        [hf, "download", "us/whole"], env=hub.environ(home), check=True, capture_output=True
    )
    begin = len(hub.requests)
    damaged, whole = finish(fetch(hub, home, large, "us/whole"))
    assert f"{file}: is damaged" in damaged
    assert "delete it and run again" in damaged
    assert whole == expected
    assert tower_bytes(hub, begin) == 0


@pytest.mark.slow
def test_a_download_that_is_cut_or_refused_for_a_while_arrives(hub, large, tmp_path):
    whole = finish(fetch(hub, tmp_path / "plain", large))
    begin = len(hub.requests)
    hub.fail(r"/cdn/.*\.safetensors", "cut", times=2, after=5_000_000)
    hub.fail(r"/resolve/.*\.safetensors", 503, times=1)
    hub.fail(r"/resolve/.*\.safetensors", 429, times=1, retry_after=0)
    assert finish(fetch(hub, tmp_path / "faulty", large)) == whole
    assert tower_bytes(hub, begin) < TOWER + 2 * 5_100_000 + 100_000


@pytest.mark.slow
def test_a_killed_download_goes_on_where_it_was(hub: Hub, large: str, tmp_path: Path) -> None:
    whole = finish(fetch(hub, tmp_path / "plain", large))
    hub.bandwidth = 30e6
    process = fetch(hub, tmp_path / "killed", large)
    assets = tmp_path / "killed" / "assets"
    while sum(part.stat().st_size for part in assets.rglob("*.part")) < TOWER / 4:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    (part,) = assets.rglob("*.part")
    kept = part.stat().st_size
    hub.bandwidth = None
    begin = len(hub.requests)
    assert finish(fetch(hub, tmp_path / "killed", large)) == whole
    assert tower_bytes(hub, begin) < TOWER - kept + 100_000
    assert list(assets.rglob("*.part")) == []


@pytest.mark.slow
def test_of_two_processes_one_fetches(hub: Hub, large: str, tmp_path: Path) -> None:
    both = [fetch(hub, tmp_path / "home", large) for _ in range(2)]
    assert finish(both[0]) == finish(both[1])
    assert tower_bytes(hub, 0) < TOWER + 100_000


@pytest.mark.slow
def test_no_space_left_is_told_and_what_came_is_kept(hub: Hub, large: str, tmp_path: Path) -> None:
    home = tmp_path / "small"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(home)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    try:
        (said,) = finish(fetch(hub, home, large))
        assert "us/large: no space left in" in said
        assert "HF_HOME" in said
        subprocess.run(["mount", "-o", "remount,size=200m", str(home)], check=True)
        begin = len(hub.requests)
        assert "error" not in finish(fetch(hub, home, large))[0]
        assert tower_bytes(hub, begin) < TOWER - 16_000_000
    finally:
        subprocess.run(["umount", str(home)], check=True)
