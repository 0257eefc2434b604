"""What a user does with the default pair, through the command line, against a hub on this machine.

Each visit is one process with several commands: what is imported is imported once, and the mode
of the hub (HF_HUB_OFFLINE) is fixed at that moment, as in a user's shell.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.torch import load, save

from tests.hub.client import GLM, QUICK, QWEN, Result, commands
from tests.hub.server import Hub

FEW = ["--limit", "3", "--device", "cpu"]
RESUME = ["train", "+experiments=transcription", "training.resume_from_checkpoint=last"]
TRANSCRIBE = ["transcribe", "speech/one.wav", "--model", "run"]
HF = str(Path(sys.executable).with_name("hf"))
# Minutes together: several full starts of the program. CI runs them.
pytestmark = pytest.mark.slow
Visit = Callable[..., list[Result]]


def train(*settings: str) -> list[str]:
    return ["train", "+experiments=transcription", *settings, *QUICK]


def train_here(*settings: str) -> list[str]:
    return ["train", "data=folder", "data.path=speech", *settings, *QUICK]


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
def visit(stocked_hub: Hub, shared_data: Path, place: Path) -> Visit:
    def run(*lines: list[str], home: str = "home", offline: bool = False) -> list[Result]:
        return commands(stocked_hub.environ(place / home, offline=offline), place, *lines)

    return run


@pytest.fixture
def away(stocked_hub: Hub) -> Iterator[None]:
    stocked_hub.stop()
    yield
    stocked_hub.start()


@pytest.fixture(scope="module")
def first(visit: Visit) -> list[Result]:
    """The first visit: everything is fetched and streamed."""
    found = visit(
        train("data=loquacious", "output_dir=run"),
        ["eval", "run", *("--data", "librispeech_clean"), *("--data", "ami"), *FEW, "--out", "e1"],
        [*TRANSCRIBE, "--json"],
        [*RESUME, "data=loquacious", "output_dir=run", *QUICK, "training.max_steps=5"],
    )
    assert [result.status for result in found] == [0] * 4, found
    return found


def test_the_first_visit(first: list[Result], stocked_hub: Hub, place: Path) -> None:
    trained, evaluated, transcribed, resumed = first
    assert len(trained.out.splitlines()) < 24, "more than a screen"
    assert "Goes on from" in resumed.out
    assert json.loads(transcribed.out)["error"] is None
    assert "WER" in evaluated.out
    for result in first:
        assert "HTTP" not in result.out + result.err
        assert "Traceback" not in result.err
    assert "HTTP Request" in (place / "run" / "run.log").read_text()
    config = (place / "run" / "config.yaml").read_text()
    for name in (GLM, QWEN):
        assert f"revision: {stocked_hub.repo(name).find('main').sha}" in config


def test_only_the_audio_tower_travels_once(first: list[Result], stocked_hub: Hub) -> None:
    """Of GLM-ASR neither the language model nor anything a second time."""
    weights = stocked_hub.repo(GLM).find("main").files["model.safetensors"]
    sent = [r.sent for r in stocked_hub.requests if r.method == "GET" and weights.etag in r.path]
    tensors = load(weights.read())
    tower = sum(value.nbytes for key, value in tensors.items() if "audio_tower" in key)
    assert tower <= sum(sent) < tower + 100_000


def test_offline_the_same_goes_with_what_is_there(first, visit, stocked_hub, place):
    """HF_HUB_OFFLINE=1, models cached by the first visit, sets by `hf download`."""
    env = stocked_hub.environ(place / "home")
    for name in ("speechbrain/LoquaciousSet", "openslr/librispeech_asr"):
        fetch = [HF, "download", name, "--repo-type", "dataset"]
        subprocess.run(fetch, env=env, check=True, capture_output=True)
    begin = len(stocked_hub.requests)
    found = visit(
        train("data=loquacious", "output_dir=off"),
        ["eval", "off", "--data", "librispeech_clean", *FEW, "--out", "e2"],
        TRANSCRIBE,
        [*RESUME, "data=loquacious", "output_dir=off", *QUICK, "training.max_steps=5"],
        ["train", "data=commonvoice", "output_dir=none", *QUICK],
        offline=True,
    )
    assert [result.status for result in found] == [0, 0, 0, 0, 2], found
    assert stocked_hub.requests[begin:] == []
    assert found[-1].err.count("\n") == 0
    assert "hf download fixie-ai/common_voice_17_0 --repo-type dataset" in found[-1].err


def test_with_the_hub_gone_what_is_cached_works(first, away, visit):
    impatient = "+data.train.commonvoice.options={retries: 1, backoff: 0.01}"
    trained, transcribed, streamed = visit(
        train_here("output_dir=gone"),
        TRANSCRIBE,
        ["train", "data=commonvoice", impatient, "output_dir=none", *QUICK],
    )
    assert trained.status == transcribed.status == 0, (trained, transcribed)
    said = trained.err.splitlines()
    assert [line[: line.index(" (")] for line in said] == ["The hub cannot be reached"] * 2
    assert transcribed.err == ""  # its commits are pinned: the hub is not even asked
    assert streamed.status == 2
    end = streamed.err.splitlines()[-1]
    assert "fixie-ai/common_voice_17_0" in end
    assert "Traceback" not in streamed.err


def test_with_nothing_cached_and_no_network_a_line_says_how_to_fetch(away, visit):
    for offline, reason in ((True, "HF_HUB_OFFLINE is set"), (False, "the hub cannot be reached")):
        (result,) = visit(train_here("output_dir=never"), home="empty", offline=offline)
        assert result.status == 2
        assert len(result.err.splitlines()) == 1, result.err
        for part in (f"'hf download {GLM}'", "model=nano", reason):
            assert part in result.err


@pytest.mark.parametrize(
    ("data", "pair"),
    [("librispeech", "whisper_qwen3"), ("commonvoice", "glm_qwen3"), ("multiasr", "glm_qwen3")],
)
def test_the_other_sets_and_pairs_of_the_hub(first, visit, place, data, pair):
    """Several configurations, splits and columns, as published."""
    (result,) = visit(train(f"model={pair}", f"data={data}", f"output_dir={data}"))
    assert result.status == 0, result.err
    assert pair == "whisper_qwen3" or result.err == ""  # what comes for the first time is shown
    rows = [json.loads(line) for line in (place / data / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3]
    assert next(row for row in rows if row["kind"] == "eval")["wer"] is not None


def test_a_checkpoint_keeps_to_its_commits_when_the_hub_moves_on(first, visit, stocked_hub, place):
    stocked_hub.create("us/encoder", stocked_hub.files(GLM))
    data = ["data=folder", "data.path=speech", "model.encoder.id=us/encoder", *QUICK]
    (trained,) = visit(["train", *data, "output_dir=old"])
    assert trained.status == 0, trained.err
    weights = load(stocked_hub.files("us/encoder")["model.safetensors"])
    other = save({key: value + 1 for key, value in weights.items()}, {"format": "pt"})
    newest = stocked_hub.commit("us/encoder", {"model.safetensors": other})
    found = visit(
        ["transcribe", "speech/one.wav", "--model", "old"],
        [*RESUME, *data, "output_dir=old", "training.max_steps=4"],
        ["train", *data, "output_dir=new"],
    )
    assert [result.status for result in found] == [0, 0, 0], found
    assert newest not in (place / "old" / "config.yaml").read_text()
    assert newest in (place / "new" / "config.yaml").read_text()


def test_a_damaged_file_of_the_decoder_is_one_line(first, visit, place):
    shutil.copytree(place / "home", place / "damaged", symlinks=True)
    (weights,) = (place / "damaged").rglob("models--Qwen*/snapshots/*/model.safetensors")
    os.truncate(weights.resolve(), 1_000_000)
    (result,) = visit(TRANSCRIBE, home="damaged")
    assert result.status == 2
    (line,) = result.err.splitlines()
    for part in (QWEN, str(weights.parent), "delete"):
        assert part in line


def test_a_part_of_a_set_that_was_fetched_serves_without_a_network(
    first: list[Result], visit: Visit, stocked_hub: Hub, place: Path
) -> None:
    """The command that the refusal advises, and docs/hub.md shows, is the one that helps."""
    no_sets = shutil.ignore_patterns("datasets--*")
    shutil.copytree(place / "home", place / "part", symlinks=True, ignore=no_sets)
    small = [f"data.{which}.loquacious.subset=small" for which in ("train", "eval")]
    line = train(*small, "output_dir=part_run")
    (refused,) = visit(line, home="part", offline=True)
    assert refused.status == 2
    fetch = shlex.split(refused.err[refused.err.index("hf download") :])
    env = stocked_hub.environ(place / "part")
    subprocess.run([HF, *fetch[1:]], env=env, check=True, capture_output=True)
    (result,) = visit(line, home="part", offline=True)
    assert result.status == 0, result.err
    assert result.err == "speechbrain/LoquaciousSet is read from the cache: the hub is out of reach"
