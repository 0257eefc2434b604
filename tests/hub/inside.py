"""What the real clients do against a hub in a box: each function runs in a process of its own."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    ModelCard,
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
    assert info.tags == ["a", "b", "license:mit"]
    assert info.pipeline_tag == "automatic-speech-recognition"
    files = {file.rfilename: file for file in info.siblings}
    assert (files["config.json"].size, files["config.json"].blob_id) == (3, SHA1)
    assert files["model.safetensors"].size == len(WEIGHTS)
    assert files["model.safetensors"].lfs.sha256 == SHA256
    folder = Path(snapshot_download(name))
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == named
    assert Path(snapshot_download(name, revision=old), "config.json").read_text() == "old"
    assert api.model_info(name, revision="v1").sha == old
    assert set(api.list_repo_files(name, revision="dev/next")) == named - {"config.json"} | {
        "extra"
    }
    assert {ref.name for ref in api.list_repo_refs(name).branches} == {"main", "dev/next"}
    titles = [commit.title for commit in api.list_repo_commits(name)]
    assert titles == ["Better", "Upload files", "initial commit"]
    tree = {entry.path for entry in api.list_repo_tree(name, recursive=True)}
    assert tree == named | {"sub", "sub/deep"}
    top = {entry.path: type(entry).__name__ for entry in api.list_repo_tree(name, expand=True)}
    assert top["sub"] == "RepoFolder"
    found = api.get_paths_info(name, ["config.json", "sub", "nothing"], expand=True)
    assert {e.path: e.last_commit.oid for e in found} == {"config.json": sha, "sub": sha}
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
    assert api.file_exists(name, "config.json")
    assert not api.file_exists(name, "no.json")
    assert not api.repo_exists("me/none")
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


def visit(cache: str, tokens: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Who -> what was tried -> the error's name and text."""
    return {who: _tries(token, f"{cache}/{who}") for who, token in tokens.items()}


def _tries(token: Any, cache: str) -> dict[str, list[str]]:
    api = HfApi(token=token)
    return {
        "private": _error(api.model_info, "ann/private"),
        "file": _error(api.hf_hub_download, "ann/private", "a.txt", cache_dir=cache),
        "gated": _error(api.hf_hub_download, "ann/gated", "a.txt", cache_dir=cache),
        "gate": _error(api.auth_check, "ann/gated"),
        "listed": _error(api.list_repo_files, "ann/gated"),
        "write": _error(api.delete_file, "a.txt", "ann/gated"),
        "who": _error(api.whoami),
    }


def _error(call: Any, *args: Any, **kwargs: Any) -> list[str]:
    try:
        call(*args, **kwargs)
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["none", ""]


def publish(folder: str) -> list[str]:
    """The hashes of two commits."""
    api, name = HfApi(), "ann/new"
    assert api.whoami()["name"] == "ann"
    assert api.create_repo(name, private=True) == f"{api.endpoint}/{name}"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(name)
    api.create_repo(name, exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="rights to create a model"):
        api.create_repo("bob/new")
    first = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Weights")
    assert api.upload_folder(repo_id=name, folder_path=folder).oid == first.oid  # unchanged
    proposed = [CommitOperationAdd("x.txt", b"x")]
    pull = api.create_commit(name, proposed, commit_message="Propose", create_pr=True)
    assert (pull.pr_revision, pull.pr_num) == ("refs/pr/1", 1)
    more = [CommitOperationAdd("y.txt", b"y")]
    api.create_commit(name, more, commit_message="More", revision="refs/pr/1")
    assert {"x.txt", "y.txt"} < set(api.list_repo_files(name, revision="refs/pr/1"))
    changes = [CommitOperationAdd("big.bin", b"b" * 500), CommitOperationDelete("sub/")]
    about = {"commit_message": "Second", "commit_description": "Why"}
    second = api.create_commit(name, changes, **about, parent_commit=first.oid)
    late, bad = [CommitOperationAdd("z.txt", b"z")], b"---\n[x\n---\n"
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(name, late, commit_message="Late", parent_commit=first.oid)
    with pytest.raises(ValueError, match="Invalid YAML"):
        api.upload_file(path_or_fileobj=bad, path_in_repo="README.md", repo_id=name)
    ModelCard("---\nlicense: mit\n---\n# Hello").push_to_hub(name)
    api.create_branch(name, branch="next", revision=first.oid)
    api.create_tag(name, tag="v1", revision=second.oid)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag(name, tag="v1")
    refs = api.list_repo_refs(name, include_pull_requests=True)
    assert [ref.ref for ref in refs.branches] == ["refs/heads/main", "refs/heads/next"]
    assert [ref.ref for ref in refs.tags + refs.pull_requests] == ["refs/tags/v1", "refs/pr/1"]
    api.delete_branch(name, branch="next")
    api.delete_tag(name, tag="v1")
    api.update_repo_settings(name, private=False, gated="manual")
    assert (api.model_info(name).private, api.model_info(name).gated) == (False, "manual")
    api.create_repo("ann/gone", repo_type="dataset")
    api.delete_repo("ann/gone", repo_type="dataset")
    assert not api.repo_exists("ann/gone", repo_type="dataset")
    return [first.oid, second.oid]


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
