"""To the hub and back, with the real clients against a hub in a box, as a user types it.

Each visit is one process; what it prints and what lies on the hub and in the cache is looked at.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from huggingface_hub import ModelCard
from omegaconf import OmegaConf

from tests.conftest import REPO
from tests.hub import inside
from tests.hub.client import Result, client, commands
from tests.hub.server import Hub
from tiny_audio.audio.io import load_audio
from tiny_audio.data.records import Record
from tiny_audio.data.sources import open_set
from tiny_audio.errors import CheckpointError, HubError
from tiny_audio.evaluate.run import fingerprint
from tiny_audio.share.card import model_card
from tiny_audio.share.hub import Target, check_bases, check_target, package

NANO = REPO / "src" / "tiny_audio" / "assets" / "nano" / "recogniser"
TOKEN = "hf_thisisthetoken"
slow = pytest.mark.slow  # minutes together: full starts of the program. CI runs them.
SENT = {
    *("README.md", "config.json", "config.yaml", "model.safetensors", "modeling_tiny_audio.py"),
    *("chat_template.jinja", "preprocessor_config.json", "processor_config.json"),
    *("tiny_audio.json", "tokenizer.json", "tokenizer_config.json", "loss.png", ".gitattributes"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a run whose checkpoint is the bundled recogniser, and a recording."""
    folder = tmp_path_factory.mktemp("place")
    checkpoint = folder / "runs" / "first" / "checkpoints" / "step-00000300"
    shutil.copytree(NANO, checkpoint)
    (checkpoint / "training.pt").write_bytes(b"optimizer")
    index = {"best": checkpoint.name, "last": checkpoint.name, "checkpoints": []}
    (checkpoint.parent / "index.json").write_text(json.dumps(index))
    rows = [{"kind": "data", "step": 300, "hours_books": 1.25, "hours_real": 0.5}]
    run = folder / "runs" / "first"
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (run / "loss.png").write_bytes(b"\x89PNG picture")
    (folder / "set").mkdir()
    for number, word in enumerate(("one", "two", "three")):
        samples = np.random.default_rng(number).normal(0, 0.1, 16_000)
        soundfile.write(folder / "set" / f"{word}.wav", samples, 16_000)
        (folder / "set" / f"{word}.txt").write_text(f"this is {word}")
    return folder


@pytest.fixture(scope="module")
def world(place: Path) -> Iterator[Hub]:
    """A hub with one user, me; ann's repository is not hers to write to."""
    with Hub() as hub:
        hub.add_user("me", TOKEN)
        hub.create("ann/open", {"a.txt": b"hers"})
        yield hub


def visit(
    hub: Hub, place: Path, *lines: list[str], offline: bool = False, **token: str
) -> list[Result]:
    env = hub.environ(place / "home", offline=offline, **({"token": TOKEN} | token))
    return commands(env, place, *lines)


@pytest.fixture(scope="module")
def pushed(world: Hub, place: Path) -> list[Result]:
    """Measured, pushed, and used by its name, in one process."""
    found = visit(
        world,
        place,
        ["eval", "runs/first", "--data", "set", "--device", "cpu", "--out", "runs/measured"],
        ["push", "runs/first", "me/model", "--dry-run"],
        ["-v", "push", "runs/first", "me/model"],
        ["transcribe", "set/one.wav", "--model", "me/model", "--device", "cpu", "--json"],
        ["eval", "me/model", "--data", "set", "--device", "cpu", "--out", "runs/again"],
    )
    assert [result.status for result in found] == [0] * 5, found
    return found


@slow
def test_what_is_sent_is_what_is_needed(pushed: list[Result], world: Hub, place: Path) -> None:
    files = world.files("me/model")
    assert files.keys() == SENT  # neither optimizer nor anything that unpickles
    assert files["model.safetensors"] == (NANO / "model.safetensors").read_bytes()
    titles = [commit.title for commit in world.repo("me/model").commits.values()]
    assert sorted(titles) == ["Tiny Audio checkpoint step-00000300", "initial commit"]
    assert "nothing was sent" in pushed[1].out
    for name in SENT - {".gitattributes"}:
        assert f"  {name}\n" in pushed[1].out
    settings = yaml.safe_load(files["config.yaml"])
    assert settings["output_dir"] == Path(settings["output_dir"]).name
    for path in place.rglob("*"):  # nor is the token left anywhere
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    assert all(TOKEN not in result.out + result.err for result in pushed)
    assert all(TOKEN.encode() not in content for content in files.values())


@slow
def test_the_card_is_read_by_the_hubs_own_classes(pushed: list[Result], world: Hub) -> None:
    card = ModelCard(world.files("me/model")["README.md"].decode())
    (result,) = card.data.eval_results or []
    assert (result.metric_type, result.dataset_name) == ("wer", "set")
    assert card.data.pipeline_tag == "automatic-speech-recognition"
    assert card.data.model_name == "model"
    for line in (
        "| test set | WER | 95% interval |",
        f"| set | {result.metric_value:.1f}% | ",
        "Hours of audio heard: 1.75 (books 1.25, real 0.50)",
        "![loss and word error rate over the steps](loss.png)",
        "393,984 parameters",
        "whisper-en/",
    ):
        assert line in card.text, line


@slow
def test_it_comes_back_and_offline_the_second_time(
    pushed: list[Result], world: Hub, place: Path
) -> None:
    begin = len(world.requests)
    local, cached, set_out = visit(
        world,
        place,
        ["transcribe", "set/one.wav", "--device", "cpu", "--json"],
        ["transcribe", "set/one.wav", "--model", "me/model", "--device", "cpu", "--json"],
        [
            *("train", "+experiments=mlp_lora", "model=nano", "model.init_from=me/model"),
            *("data=folder", "data.path=set", "data.eval_path=set", "data.num_workers=0"),
            *("training.max_steps=1", "training.eval_steps=1", "training.batch_seconds=4"),
            *("training.save_steps=1", "device=cpu", "output_dir=runs/second"),
        ],
        offline=True,
    )
    assert (local.status, cached.status, set_out.status) == (0, 0, 0), (local, cached, set_out)
    assert world.requests[begin:] == []
    texts = [json.loads(result.out)["text"] for result in (local, cached, pushed[3])]
    assert texts[0] == texts[1] == texts[2]


@slow
def test_a_second_push_replaces_the_first_and_keeps_the_rest(
    pushed: list[Result], world: Hub, place: Path
) -> None:
    """On a branch of its own and as a pull request, main stays."""
    world.commit("me/model", {"notes.txt": b"mine", "merges.txt": b"of another tokenizer"})
    main = world.repo("me/model").find("main").sha
    before = len(world.requests)
    branch, pull = visit(
        world,
        place,
        ["push", "runs/second", "me/model", "--revision", "lora"],
        ["push", "runs/first", "me/model", "--create-pr"],
    )
    assert (branch.status, pull.status) == (0, 0), (branch, pull)
    assert world.repo("me/model").find("main").sha == main
    files = world.files("me/model", "lora")
    added = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "notes.txt"}
    assert files.keys() == (SENT | added)
    assert f"{world.url}/me/model/discussions/1" in pull.out
    uploads = [r.path for r in world.requests[before:] if r.method == "PUT"]
    first = world.repo("me/model").find("main").files["model.safetensors"].etag
    assert not any(first in path for path in uploads)  # it is there already


@slow
def test_what_breaks_off_changes_nothing_and_goes_on(
    pushed: list[Result], world: Hub, place: Path
) -> None:
    world.create("me/broken", {"README.md": b"---\nlicense: mit\n---\nbefore\n"})
    before = world.repo("me/broken").find("main").sha
    world.fail(r"/api/models/me/broken/commit/", 503)
    push = ["push", "runs/first", "me/broken"]
    (failed,) = visit(world, place, push)
    assert one_line(failed, "the upload broke off", "run again to go on")
    assert world.repo("me/broken").find("main").sha == before
    world.faults.clear()
    begin = len(world.requests)
    (done,) = visit(world, place, push)
    assert done.status == 0, done
    assert [r for r in world.requests[begin:] if r.method == "PUT"] == []  # all had arrived
    assert world.files("me/broken").keys() == SENT


def one_line(result: Result, *parts: str) -> bool:
    assert result.status == 2, result
    assert len(result.err.splitlines()) == 1, result.err
    for part in parts:
        assert part in result.err, result.err
    return True


@slow
def test_refusals_are_one_line(pushed: list[Result], world: Hub, place: Path) -> None:
    push = ["push", "runs/first"]
    found = visit(
        world,
        place,
        [*push, "ann/open"],
        [*push, "ann/new"],
        [*push, "model"],
        [*push, "me/model", "--private"],
        [*push, "ann/none", "--create-pr"],
        ["push", "runs/none", "me/model"],
        ["data", "push", "set", "me/set", "--split", "a/b"],
        ["data", "push", "nothing", "me/set"],
        ["data", "push", "set", "ann/set"],
    )
    for result, part in zip(
        found,
        (
            "may not write there",
            "may not write there",
            "use the form USER/NAME",
            "is public already",
            "there is no such model",
            "no folder here, and on the hub",
            "--split a/b",
            "nothing: there is no such folder or manifest",
            "may not write there",
        ),
        strict=True,
    ):
        assert one_line(result, part)
    assert world.files("ann/open").keys() == {"a.txt", ".gitattributes"}
    (nobody,) = commands(world.environ(place / "empty"), place, [*push, "me/model"])
    assert one_line(nobody, "there is no token", "hf auth login")
    (wrong,) = visit(world, place, [*push, "me/model"], token="hf_wrong")
    assert one_line(wrong, "does not know this token")


@slow
def test_peft_and_the_pipeline_take_it_from_the_hub(world: Hub, place: Path) -> None:
    """Trained on a pair of the hub, with adapters; the commit before is another model."""
    for part in ("encoder", "decoder"):
        files = {f.name: f.read_bytes() for f in (NANO.parent / part).iterdir()}
        world.create(f"us/{part}", files)
    train = [
        *("train", "model=nano", "model.encoder.id=us/encoder", "model.decoder.id=us/decoder"),
        *("data=folder", "data.path=set", "data.eval_path=set", "data.num_workers=0"),
        *("training.max_steps=3", "training.warmup_steps=1", "training.eval_steps=3"),
        *("training.batch_seconds=4", "training.save_steps=3", "device=cpu"),
    ]
    learns = ["training.learns=[projector,lora]", "training.lora_learning_rate=0.01"]
    found = visit(
        world,
        place,
        [*train, "output_dir=runs/plain"],
        ["push", "runs/plain", "me/peft"],
        [*train, *learns, "output_dir=runs/lora"],
        ["push", "runs/lora", "me/peft"],
        ["transcribe", "set/one.wav", "--model", "runs/plain", "--device", "cpu", "--json"],
    )
    assert [result.status for result in found] == [0] * 5, found
    old = world.repo("me/peft").find("main").parent
    file = str(place / "set" / "one.wav")
    same, moved, theirs, ours, before = client(
        world, place / "home2", inside.without_us, "me/peft", "us/decoder", file, old.sha
    )
    assert same < 1e-5 < 1e-3 < moved
    assert theirs == ours
    assert before == json.loads(found[4].out)["text"]
    card = ModelCard(world.files("me/peft")["README.md"].decode())
    assert card.data.base_model == ["us/encoder", "us/decoder"]


# ---------------------------------------------------------------------------- without any hub


def test_a_package_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    shutil.copytree(NANO, tmp_path / "own")
    file = tmp_path / "own" / "config.yaml"
    settings = OmegaConf.load(file)
    settings.output_dir = settings.data.train.books.path = str(tmp_path / "deep" / "down")
    OmegaConf.save(settings, file)
    files = package(tmp_path / "own", "me/x")
    assert files.keys() | {"loss.png", ".gitattributes"} == SENT
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.read_bytes()
        assert str(tmp_path).encode() not in content, name
    settings.model.decoder.id = str(tmp_path)
    OmegaConf.save(settings, file)
    with pytest.raises(CheckpointError, match="is a folder of this machine"):
        check_bases(tmp_path / "own")


def test_figures_of_this_very_checkpoint_become_results(place: Path) -> None:
    """Of the newest evaluation of a whole set; a benchmark goes by its name on the hub."""
    checkpoint = next((place / "runs" / "first" / "checkpoints").glob("step-*"))
    figures = {
        **{"wer": 0.25, "scoring": "whisper-en/1", "utterances": 7, "substitution_rate": 0.1},
        **{"deletion_rate": 0.1, "insertion_rate": 0.05, "intervals": {"wer": [0.2, 0.3]}},
        "bootstrap": {"unit": "speaker", "units": 3},
    }
    models = {"x": [str(checkpoint), fingerprint(str(checkpoint))]}
    for name, date, changes, mark in (
        ("e1", "2026-11-24", {"wer": 0.5}, {}),
        ("e2", "2026-11-25", {}, {}),
        ("e3", "2026-11-26", {"wer": 0.1}, {"limit": 2}),
        ("e4", "2026-11-26", {"wer": 0.1}, {"models": {"x": [str(checkpoint), "another"]}}),
    ):
        out = checkpoint.parents[1] / name
        out.mkdir()
        sets = {"librispeech_clean": figures | changes, "own": figures | {"wer": None}}
        summary = {"date": date, "sets": sets, "limit": None} | mark
        summary.pop("models", None)
        (out / "summary.json").write_text(json.dumps(summary))
        (out / "settings.json").write_text(json.dumps({"models": models} | mark))
    card = ModelCard(model_card(checkpoint, "me/x")[0])
    for folder in checkpoint.parents[1].glob("e?"):
        shutil.rmtree(folder)
    (one,) = card.data.eval_results or []
    found = (one.dataset_type, one.dataset_config, one.dataset_split, one.metric_value)
    assert found == ("openslr/librispeech_asr", "clean", "test", 25.0)
    line = (
        "| librispeech_clean | 25.0% | 20.0% to 30.0% | 10.0% | 10.0% | 5.0% | 7 | whisper-en/1 |"
    )
    assert f"{line} 2026-11-25 |" in card.text
    assert "bootstrapped over speakers" in card.text


def test_names_and_offline_are_looked_at_first() -> None:
    """The tests themselves run with HF_HUB_OFFLINE=1."""
    for name in ("nano", "me/", "a/b/c", "me/m x"):
        with pytest.raises(HubError, match="use the form USER/NAME"):
            check_target(Target(name))
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        check_target(Target("me/model"))


# --------------------------------------------------------------------------------------- data


@slow
def test_data_comes_back_through_data_hub(world: Hub, place: Path) -> None:
    """Whole files and stretches of one, in two splits; what cannot be read is counted."""
    rows = [
        {"audio_filepath": "set/one.wav", "text": "first half", "offset": 0.0, "duration": 0.5},
        {"audio_filepath": "set/one.wav", "text": "second", "offset": 0.5, "speaker": "ann"},
        {"audio_filepath": "set/two.wav", "text": "whole"},
        {"audio_filepath": "set/none.wav", "text": "gone"},
    ]
    (place / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    push = ["data", "push", "test.jsonl", "me/speech", "--split", "test"]
    test, train = visit(world, place, push, ["data", "push", "set", "me/speech"])
    assert (train.status, test.status) == (0, 0), (train, test)
    assert "rejected 1 of 4 samples" in test.err
    found = client(world, place / "home", inside.samples, "me/speech", ["train", "test"])
    for split, data in (("train", "set"), ("test", "test.jsonl")):
        expected = [r for s in open_set(str(place / data)) for r in s.records()][:3]
        got = found[split]
        assert len(got) == 3
        for record, (id_, text, speaker, waveform) in zip(expected, got, strict=True):
            assert isinstance(record, Record)
            assert (record.id, record.text, record.speaker) == (id_, text, speaker)
            original = load_audio(record.audio, offset=record.offset, duration=record.seconds)
            np.testing.assert_allclose(np.array(waveform, np.float32), original, atol=1e-6)
    (trained,) = visit(
        world,
        place,
        [
            *("train", "model=tiny", "data=hub", "data.path=me/speech", "data.eval_path=me/speech"),
            *("training.max_steps=1", "training.eval_steps=1", "training.batch_seconds=4"),
            *("data.num_workers=0", "device=cpu", "output_dir=runs/third"),
        ],
    )
    assert trained.status == 0, trained
    card = world.files("me/speech", repo_type="dataset")["README.md"].decode()
    assert "num_examples: 3" in card
    assert "data.path=me/speech" in card
