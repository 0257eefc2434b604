"""What the real clients do against a hub in a box: each function runs in a process of its own."""

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import (
    HfApi,
    HfFileSystem,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

WEIGHTS = bytes(range(256)) * 4000  # 1 MB
FILES = {"config.json": b"{}\n", "sub/deep/notes.txt": b"hello", "model.safetensors": WEIGHTS}
SHA256, SHA1 = hashlib.sha256(WEIGHTS).hexdigest(), hashlib.sha1(b"blob 3\0{}\n").hexdigest()


def read(old: str, sha: str, cdn: str) -> None:
    api, name = HfApi(), "me/model"
    named = {*FILES, "README.md", ".gitattributes"}
    info = api.model_info(name, files_metadata=True)
    assert info.sha == sha
    files = {file.rfilename: file for file in info.siblings}
    assert (files["config.json"].size, files["config.json"].blob_id) == (3, SHA1)
    assert files["model.safetensors"].lfs.sha256 == SHA256
    folder = Path(snapshot_download(name))
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == named
    assert Path(snapshot_download(name, revision="v1"), "config.json").read_text() == "old"
    assert api.model_info(name, revision=old).sha == old
    assert set(api.list_repo_files(name, revision="dev/next")) == named - {"config.json"} | {
        "extra"
    }
    tree = {entry.path for entry in api.list_repo_tree(name, recursive=True)}
    assert tree == named | {"sub", "sub/deep"}
    large = get_hf_file_metadata(hf_hub_url(name, "model.safetensors"))
    assert (large.etag, large.size, large.commit_hash) == (SHA256, len(WEIGHTS), sha)
    assert large.location.startswith(f"{cdn}/cdn/me/model/{SHA256}/")
    small = get_hf_file_metadata(hf_hub_url(name, "config.json"))
    assert (small.etag, small.size) == (SHA1, 3)
    system = HfFileSystem()
    with system.open(f"{name}/model.safetensors", block_size=1024) as file:
        file.seek(5000)
        assert file.read(7) == WEIGHTS[5000:5007]
    assert system.glob(f"{name}/**/*.txt") == [f"{name}/sub/deep/notes.txt"]
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download("me/none")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(name, revision="v9")
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(name, "no.json")
    with pytest.raises(FileNotFoundError):
        system.info(f"{name}/no.json")


def read_offline(sha: str) -> None:
    assert snapshot_download("me/model").endswith(sha)


def meet_faults() -> None:
    api, weights = HfApi(), "model.safetensors"
    for name in ("me/cut", "me/stall"):
        assert Path(hf_hub_download(name, weights)).read_bytes() == WEIGHTS * 14
    for name in ("me/busy", "me/down"):
        start = time.monotonic()
        assert len([*api.list_repo_tree(name)]) == 2
        assert time.monotonic() - start >= 1
    with pytest.raises(Exception, match=r"disconnected|reset|refused"):  # httpx's, by any name
        api.model_info("me/refused")
    with pytest.raises(HfHubHTTPError, match="500"):
        api.model_info("me/broken")


def stream(sets: list[list[Any]]) -> list[list[Any]]:
    """Count of the rows, their columns, and the shards of each set."""
    import datasets

    found = []
    for path, subset, split in sets:
        rows = datasets.load_dataset(path, subset, split=split, streaming=True)
        for name, kind in rows.features.items():
            if isinstance(kind, datasets.Audio):
                rows = rows.cast_column(name, datasets.Audio(decode=False))
        listed = [*rows]
        found.append([len(listed), sorted(listed[0]), rows.n_shards])
    with pytest.raises(ValueError, match="tiny"):
        datasets.load_dataset(sets[0][0], "tiny", streaming=True)
    with pytest.raises(datasets.exceptions.DatasetNotFoundError):
        datasets.load_dataset("no/such-set", streaming=True)
    with pytest.raises(datasets.exceptions.DatasetNotFoundError, match="gated"):
        datasets.load_dataset("kensho/spgispeech", "S", streaming=True, token=False)
    return found


def fetch_model(name: str) -> list[str]:
    """The files that the product takes of a model."""
    from tiny_audio.hub import MODEL_FILES, snapshot

    return [path.name for path in snapshot(name, files=MODEL_FILES).iterdir()]


def samples(name: str, splits: list[str]) -> dict[str, list[Any]]:
    """What the preset `data=hub` reads of a set: id, text, speaker and waveform, by split."""
    from tiny_audio.audio.io import load_audio
    from tiny_audio.compose import compose
    from tiny_audio.data.sources import open_sources

    found = {}
    for split in splits:
        settings = ["data=hub", f"data.path={name}", f"data.train.main.split={split}"]
        config = compose([*settings, "output_dir=."]).data.train
        (source,) = open_sources({"main": vars(config["main"])}, key="data.train")
        rows = [(r.id, r.text, r.speaker, load_audio(r.audio).tolist()) for r in source.records()]
        found[split] = rows
    return found


def without_us(name: str, base: str, file: str, old: str) -> list[Any]:
    """Largest difference of a logit between PEFT with the adapter and our decoder, and between PEFT
    without and with it; the text that transformers' pipeline writes, ours, and that of a commit."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, pipeline

    ids = torch.arange(40)[None]
    lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(lm, name, subfolder="adapter")
    with torch.no_grad():
        adapted = model(ids).logits
        with model.disable_adapter():
            plain = model(ids).logits
    from tiny_audio import load

    ours = load(name, device="cpu")
    with torch.no_grad():
        mine = ours.model.decoder(ids).logits
    task = "automatic-speech-recognition"
    theirs = pipeline(task, model=name, trust_remote_code=True, device="cpu")(file)["text"]
    texts = [theirs, ours.transcribe(file).text]
    texts.append(load(name, device="cpu", revision=old).transcribe(file).text)
    return [float((mine - adapted).abs().max()), float((plain - adapted).abs().max()), *texts]
