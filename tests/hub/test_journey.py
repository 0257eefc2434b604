"""What a user does with the default pair, through the command line, against a hub on this machine.

Each test is one process with several commands: what is imported is imported once, and the mode
of the hub (HF_HUB_OFFLINE) is fixed at that moment, as in a user's shell.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.torch import load, save

from tests.hub.client import GLM, QUICK, QWEN, Result, commands
from tests.hub.server import Hub

FEW = ["--limit", "3", "--device", "cpu"]
RESUME = ["train", "+experiments=transcription", "training.resume_from_checkpoint=last"]
# Minutes together: several full starts of the program. CI runs them.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the user works: a cache, a recording, and a folder of recordings with transcripts."""
    folder = tmp_path_factory.mktemp("journey")
    (folder / "speech").mkdir()
    for number, word in enumerate(("one", "two", "three", "four")):
        samples = np.random.default_rng(number).normal(0, 0.1, 16_000)
        soundfile.write(folder / "speech" / f"{word}.wav", samples, 16_000)
        (folder / "speech" / f"{word}.txt").write_text(f"this is {word}")
    return folder


@pytest.fixture(scope="module")
def first(stocked_hub: Hub, shared_data: Path, place: Path) -> list[Result]:
    """The first visit: everything is fetched and streamed."""
    begin = len(stocked_hub.requests)
    found = commands(
        stocked_hub.environ(place / "home"),
        place,
        ["train", "+experiments=transcription", "data=loquacious", "output_dir=run", *QUICK],
        ["eval", "run", *("--data", "librispeech_clean"), *("--data", "ami"), *FEW, "--out", "e1"],
        ["transcribe", "speech/one.wav", "--model", "run", "--json"],
        [*RESUME, "data=loquacious", "output_dir=run", *QUICK, "training.max_steps=5"],
    )
    assert [result.status for result in found] == [0] * 4, found
    assert len(stocked_hub.requests) > begin
    return found


def test_the_first_run_says_little_and_logs_the_rest(first: list[Result], place: Path) -> None:
    train, evaluated, transcribed, resumed = first
    lines = train.out.splitlines()
    assert len(lines) < 24, "more than a screen"
    assert "Goes on from" in resumed.out
    assert json.loads(transcribed.out)["error"] is None
    assert "WER" in evaluated.out
    for result in first:
        assert "HTTP" not in result.out + result.err
        assert "Traceback" not in result.err
    assert "HTTP Request" in (place / "run" / "run.log").read_text()


def test_only_the_audio_tower_travels_once(first: list[Result], stocked_hub: Hub) -> None:
    """Of GLM-ASR neither the language model nor anything a second time."""
    repo = stocked_hub.repo(GLM)
    weights = repo.find("main").files["model.safetensors"]
    sent = [r.sent for r in stocked_hub.requests if r.method == "GET" and weights.etag in r.path]
    tower = sum(
        value.numel() * value.element_size()
        for key, value in load(weights.read()).items()
        if "audio_tower" in key
    )
    assert tower <= sum(sent) < tower + 100_000


def test_a_checkpoint_names_the_commits(first: list[Result], stocked_hub: Hub, place: Path) -> None:
    config = (place / "run" / "config.yaml").read_text()
    for name in (GLM, QWEN):
        assert f"revision: {stocked_hub.repo(name).find('main').sha}" in config


def test_offline_the_same_goes_with_what_is_there(
    first: list[Result], stocked_hub: Hub, place: Path
) -> None:
    """HF_HUB_OFFLINE=1, models cached by the first visit, sets by `hf download`."""
    fetch = "from huggingface_hub import snapshot_download as get\n"
    for name in ("speechbrain/LoquaciousSet", "openslr/librispeech_asr"):
        fetch += f"get({name!r}, repo_type='dataset')\n"
    env = stocked_hub.environ(place / "home")
    subprocess.run([sys.executable, "-c", fetch], env=env, check=True, capture_output=True)
    begin = len(stocked_hub.requests)
    found = commands(
        stocked_hub.environ(place / "home", offline=True),
        place,
        ["train", "+experiments=transcription", "data=loquacious", "output_dir=off", *QUICK],
        ["eval", "off", "--data", "librispeech_clean", *FEW, "--out", "e2"],
        ["transcribe", "speech/one.wav", "--model", "run"],
        [*RESUME, "data=loquacious", "output_dir=off", *QUICK, "training.max_steps=5"],
        ["train", "data=commonvoice", "output_dir=none", *QUICK],
    )
    assert [result.status for result in found] == [0, 0, 0, 0, 2], found
    assert stocked_hub.requests[begin:] == []
    assert found[-1].err.count("\n") == 0
    assert "hf download fixie-ai/common_voice_17_0 --repo-type dataset" in found[-1].err


def test_with_the_hub_gone_what_is_cached_works(
    first: list[Result], stocked_hub: Hub, place: Path
) -> None:
    impatient = "+data.train.commonvoice.options={retries: 1, backoff: 0.01}"
    stocked_hub.stop()
    try:
        trained, transcribed, streamed = commands(
            stocked_hub.environ(place / "home"),
            place,
            ["train", "data=folder", "data.path=speech", "output_dir=gone", *QUICK],
            ["transcribe", "speech/one.wav", "--model", "run"],
            ["train", "data=commonvoice", impatient, "output_dir=none", *QUICK],
        )
    finally:
        stocked_hub.start()
    assert trained.status == transcribed.status == 0, (trained, transcribed)
    said = trained.err.splitlines()
    assert [line[: line.index(" (")] for line in said] == ["The hub cannot be reached"] * 2
    assert transcribed.err == ""  # its commits are pinned: the hub is not even asked
    assert streamed.status == 2
    *_, retry, end = streamed.err.splitlines()
    assert "trying again" in retry
    assert "fixie-ai/common_voice_17_0" in end
    assert "Traceback" not in streamed.err


def test_with_nothing_cached_and_no_network_a_line_says_how_to_fetch(
    stocked_hub: Hub, shared_data: Path, place: Path
) -> None:
    line = ["train", "data=folder", "data.path=speech", "output_dir=never", *QUICK]
    (offline,) = commands(stocked_hub.environ(place / "empty", offline=True), place, line)
    stocked_hub.stop()
    try:
        (gone,) = commands(stocked_hub.environ(place / "empty"), place, line)
    finally:
        stocked_hub.start()
    for result, reason in ((offline, "HF_HUB_OFFLINE is set"), (gone, "the hub cannot be reached")):
        assert result.status == 2
        assert len(result.err.splitlines()) == 1, result.err
        assert f"'hf download {GLM}'" in result.err
        assert "model=nano" in result.err
        assert reason in result.err


@pytest.mark.parametrize(
    ("data", "pair"),
    [("librispeech", "whisper_qwen3"), ("commonvoice", "glm_qwen3"), ("multiasr", "glm_qwen3")],
)
def test_the_other_sets_and_pairs_of_the_hub(
    first: list[Result], stocked_hub: Hub, place: Path, data: str, pair: str
) -> None:
    """Several configurations, splits and columns, as published."""
    (result,) = commands(
        stocked_hub.environ(place / "home"),
        place,
        ["train", f"model={pair}", f"data={data}", f"output_dir={data}", *QUICK],
    )
    assert result.status == 0, result.err
    assert pair == "whisper_qwen3" or result.err == ""  # what comes for the first time is shown
    rows = [json.loads(line) for line in (place / data / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3]
    assert next(row for row in rows if row["kind"] == "eval")["wer"] is not None


def test_a_checkpoint_keeps_to_its_commits_when_the_hub_moves_on(
    first: list[Result], stocked_hub: Hub, place: Path
) -> None:
    stocked_hub.create("us/encoder", stocked_hub.files(GLM))
    data = ["data=folder", "data.path=speech", "model.encoder.id=us/encoder", *QUICK]
    env = stocked_hub.environ(place / "home")
    (trained,) = commands(env, place, ["train", *data, "output_dir=old"])
    assert trained.status == 0, trained.err
    weights = load(stocked_hub.files("us/encoder")["model.safetensors"])
    other = save({key: value + 1 for key, value in weights.items()}, {"format": "pt"})
    newest = stocked_hub.commit("us/encoder", {"model.safetensors": other})
    transcribed, resumed, started = commands(
        env,
        place,
        ["transcribe", "speech/one.wav", "--model", "old"],
        [*RESUME, *data, "output_dir=old", "training.max_steps=4"],
        ["train", *data, "output_dir=new"],
    )
    assert [transcribed.status, resumed.status, started.status] == [0, 0, 0], (resumed, started)
    assert newest not in (place / "old" / "config.yaml").read_text()
    assert newest in (place / "new" / "config.yaml").read_text()


def test_a_damaged_file_of_the_decoder_is_one_line(
    first: list[Result], stocked_hub: Hub, place: Path
) -> None:
    home = place / "damaged"
    shutil.copytree(place / "home", home, symlinks=True)
    (weights,) = home.rglob("models--Qwen*/snapshots/*/model.safetensors")
    os.truncate(weights.resolve(), 1_000_000)
    (result,) = commands(
        stocked_hub.environ(home), place, ["transcribe", "speech/one.wav", "--model", "run"]
    )
    assert result.status == 2
    (line,) = result.err.splitlines()
    assert QWEN in line
    assert str(weights.parent) in line
    assert "delete" in line


def test_a_part_of_a_set_that_was_fetched_serves_without_a_network(
    first: list[Result], stocked_hub: Hub, place: Path
) -> None:
    """The command that the refusal advises, and docs/hub.md shows, is the one that helps."""
    home = place / "part"
    shutil.copytree(
        place / "home", home, symlinks=True, ignore=shutil.ignore_patterns("datasets--*")
    )
    small = [f"data.{which}.loquacious.subset=small" for which in ("train", "eval")]
    line = ["train", "+experiments=transcription", *small, "output_dir=part_run", *QUICK]
    offline = stocked_hub.environ(home, offline=True)
    (refused,) = commands(offline, place, line)
    assert refused.status == 2
    fetch = shlex.split(refused.err[refused.err.index("hf download") :])
    fetch[0] = str(Path(sys.executable).with_name("hf"))
    env = stocked_hub.environ(home)
    subprocess.run(fetch, env=env, check=True, capture_output=True)
    (result,) = commands(offline, place, line)
    assert result.status == 0, result.err
    (line,) = result.err.splitlines()
    assert line == "speechbrain/LoquaciousSet is read from the cache: the hub is out of reach"
