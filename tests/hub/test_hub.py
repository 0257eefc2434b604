"""The hub in a box answers the real clients as the hub does."""

from __future__ import annotations

import hashlib
import json
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path

import pytest

from tests.hub.client import WHISPER, client
from tests.hub.datasets import ROWS, SETS
from tests.hub.server import Hub
from tiny_audio.compose import compose

WEIGHTS = bytes(range(256)) * 4000  # 1 MB
FILES = {"config.json": b"{}\n", "sub/deep/notes.txt": b"hello", "model.safetensors": WEIGHTS}


def fetch(hub: Hub, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, Message]:
    """Status, body and headers, without a client of the hub."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(hub.url + path, method=method, headers=named)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


# --------------------------------------------------------------------------------------- reading

READ = """
from huggingface_hub import (
    HfApi, HfFileSystem, get_hf_file_metadata, hf_hub_url, snapshot_download, try_to_load_from_cache
)
from pathlib import Path
api, name = HfApi(), "me/model"
info = api.model_info(name, files_metadata=True)
out["sha"] = info.sha
out["card"] = [info.tags, info.card_data and info.card_data.license, info.pipeline_tag]
out["sizes"] = {s.rfilename: [s.size, s.blob_id, s.lfs and s.lfs.sha256] for s in info.siblings}
folder = Path(snapshot_download(name))
out["snapshot"] = {p.relative_to(folder).as_posix(): p.stat().st_size
                   for p in folder.rglob("*") if p.is_file()}
out["old"] = Path(snapshot_download(name, revision=given["old"]), "config.json").read_text()
out["tagged"] = api.model_info(name, revision="v1").sha
out["branch"] = api.list_repo_files(name, revision="dev/next")
out["refs"] = {ref.name: ref.target_commit for ref in api.list_repo_refs(name).branches}
out["commits"] = [[c.commit_id, c.title] for c in api.list_repo_commits(name)]
out["tree"] = [e.path for e in api.list_repo_tree(name, recursive=True)]
out["top"] = [[type(e).__name__, e.path] for e in api.list_repo_tree(name, expand=True)]
out["last"] = {e.path: e.last_commit.oid for e in api.get_paths_info(
    name, ["config.json", "sub", "nothing"], expand=True)}
about = get_hf_file_metadata(hf_hub_url(name, "model.safetensors"))
out["head"] = [about.etag, about.size, about.commit_hash, about.location]
about = get_hf_file_metadata(hf_hub_url(name, "config.json"))
out["small"] = [about.etag, about.size]
files = HfFileSystem()
with files.open(f"{name}/model.safetensors", block_size=1024) as file:
    file.seek(5000)
    out["part"] = list(file.read(7))
out["glob"] = sorted(files.glob(f"{name}/**/*.txt"))
out["exists"] = [api.file_exists(name, "config.json"), api.file_exists(name, "no.json"),
                 api.repo_exists(name), api.repo_exists("me/none")]
out["errors"] = [
    error_of(api.model_info, "me/none"),
    error_of(api.model_info, name, revision="v9"),
    error_of(api.hf_hub_download, name, "no.json"),
    error_of(snapshot_download, "me/none"),
    error_of(files.info, f"{name}/no.json"),
]
"""


def test_what_is_in_a_repository_is_read_in_every_way(hub: Hub, tmp_path: Path) -> None:
    card = b"---\nlicense: mit\npipeline_tag: automatic-speech-recognition\ntags: [a, b]\n---\n"
    old = hub.create("me/model", {"config.json": b"old", "README.md": card})
    hub.repo("me/model").refs["refs/tags/v1"] = hub.repo("me/model").commits[old]
    sha = hub.commit("me/model", FILES, title="Better")
    hub.commit("me/model", {"config.json": None, "extra": b"x"}, branch="dev/next")
    hub.page_size = 2
    out = client(hub, tmp_path, READ, given={"old": old})

    sha256, sha1 = hashlib.sha256(WEIGHTS).hexdigest(), hashlib.sha1(b"blob 3\0{}\n").hexdigest()
    named = sorted([*FILES, "README.md", ".gitattributes"])
    assert out["sha"] == sha
    assert out["card"] == [["a", "b", "license:mit"], "mit", "automatic-speech-recognition"]
    assert out["sizes"]["config.json"] == [3, sha1, None]
    assert out["sizes"]["model.safetensors"][0::2] == [len(WEIGHTS), sha256]
    assert sorted(out["snapshot"]) == named
    assert out["old"] == "old"
    assert out["tagged"] == old
    assert sorted(out["branch"]) == sorted(set(named) - {"config.json"} | {"extra"})
    assert out["refs"].keys() == {"main", "dev/next"}
    assert [title for _, title in out["commits"]] == ["Better", "Upload files", "initial commit"]
    assert sorted(out["tree"]) == sorted([*named, "sub", "sub/deep"])
    assert ["RepoFolder", "sub"] in out["top"]
    assert out["last"] == {"config.json": sha, "sub": sha}
    etag, size, commit, location = out["head"]
    assert [etag, size, commit] == [sha256, len(WEIGHTS), sha]
    assert location.startswith(f"{hub.cdn_url}/cdn/me/model/{sha256}/")
    assert out["small"] == [sha1, 3]
    assert bytes(out["part"]) == WEIGHTS[5000:5007]
    assert out["glob"] == ["me/model/sub/deep/notes.txt"]
    assert out["exists"] == [True, False, True, False]
    kinds = [kind for kind, _ in out["errors"]]
    assert kinds == [
        "RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError",
        "RepositoryNotFoundError", "FileNotFoundError",
    ]  # fmt: skip
    served = [r for r in hub.requests if r.path.startswith("/cdn/") and r.range]
    assert served
    assert all(r.sent < len(WEIGHTS) and r.status == 206 for r in served)
    before = len(hub.requests)
    again = (
        "from huggingface_hub import snapshot_download\nout['at'] = snapshot_download('me/model')"
    )
    assert client(hub, tmp_path, again, offline=True)["at"].endswith(sha)
    assert len(hub.requests) == before


def test_ranges_conditions_and_files_on_disk(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(WEIGHTS)
    hub.create("me/m", {"a.txt": b"0123456789", "large.bin": tmp_path / "large"})
    address = "/me/m/resolve/main/a.txt"
    etag = fetch(hub, address)[2]["ETag"]
    for wanted, expected in [("2-4", b"234"), ("7-", b"789"), ("-2", b"89"), ("5-99", b"56789")]:
        status, body, headers = fetch(hub, address, Range=f"bytes={wanted}", If_Range=etag)
        assert (status, body) == (206, expected)
        assert headers["Content-Range"].endswith("/10")
    assert fetch(hub, address, Range="bytes=2-4", If_Range='"other"')[:2] == (200, b"0123456789")
    status, _, headers = fetch(hub, address, Range="bytes=10-")
    assert (status, headers["Content-Range"]) == (416, "bytes */10")
    status, body, headers = fetch(hub, address, method="HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "10")
    assert fetch(hub, "/me/m/resolve/main/large.bin", Range="bytes=-5")[1] == WEIGHTS[-5:]
    assert hub.requests[-1].sent == 5


def test_latency_and_bandwidth_are_kept(hub: Hub) -> None:
    hub.create("me/m", {"a.txt": b"x" * 100_000})
    for hub.latency, hub.bandwidth in ((0.3, None), (0.0, 400_000)):
        start = time.monotonic()
        assert len(fetch(hub, "/me/m/resolve/main/a.txt")[1]) == 100_000
        assert time.monotonic() - start > 0.24


# ------------------------------------------------------------------------------- who may do what

ACCESS = """
from huggingface_hub import HfApi
def tries(token):
    api = HfApi(token=token)
    apart = {"cache_dir": f"{given['cache']}/{token}"}
    return {
        "private": error_of(api.model_info, "ann/private"),
        "file": error_of(api.hf_hub_download, "ann/private", "a.txt", **apart),
        "gated": error_of(api.hf_hub_download, "ann/gated", "a.txt", **apart),
        "gate": error_of(api.auth_check, "ann/gated"),
        "listed": error_of(api.list_repo_files, "ann/gated"),
        "write": error_of(api.delete_file, "a.txt", "ann/gated"),
        "who": error_of(api.whoami),
    }
out = {who: tries(token) for who, token in given["tokens"]}
"""


def test_private_and_gated_repositories_let_in_whom_they_should(hub: Hub, tmp_path: Path) -> None:
    hub.create("ann/private", {"a.txt": b"1"}, private=True)
    hub.create("ann/gated", {"a.txt": b"1"}, gated=True)
    for name in ("ann", "bob", "eve"):
        hub.add_user(name, f"hf_{name}")
    hub.grant("ann/gated", "eve")
    tokens = [("nobody", False), ("wrong", "hf_wrong"), ("stranger", "hf_bob")]
    tokens += [("granted", "hf_eve"), ("owner", "hf_ann")]  # the owner last, who deletes the file
    out = client(hub, tmp_path, ACCESS, given={"cache": str(tmp_path), "tokens": tokens})
    kinds = {who: {key: kind for key, (kind, _) in row.items()} for who, row in out.items()}
    missing, gated, denied = "RepositoryNotFoundError", "GatedRepoError", "HfHubHTTPError"
    stranger = {
        "private": missing, "file": missing, "gated": gated, "gate": gated, "listed": "none",
        "write": denied, "who": "none",
    }  # fmt: skip
    assert kinds["stranger"] == stranger
    assert kinds["nobody"] == {**stranger, "who": "ValueError"}
    assert kinds["granted"] == {**stranger, "gated": "none", "gate": "none"}
    assert set(kinds["owner"].values()) == {"none"}
    assert set(kinds["wrong"].values()) == {denied}
    assert "Invalid credentials in Authorization header" in out["wrong"]["private"][1]
    assert "Please log in" in out["nobody"]["gated"][1]
    assert "not in the authorized list" in out["stranger"]["gated"][1]
    assert "create_pr=1" in out["stranger"]["write"][1]
    assert not any(r.authorization for r in hub.requests if r.path.startswith("/cdn/"))


# ------------------------------------------------------------------------------------- publishing

PUBLISH = """
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from pathlib import Path
api, name = HfApi(), "ann/new"
out["who"] = api.whoami()["name"]
out["url"] = str(api.create_repo(name, private=True))
out["twice"] = error_of(api.create_repo, name)
api.create_repo(name, exist_ok=True)
out["foreign"] = error_of(api.create_repo, "bob/new")
first = api.upload_folder(repo_id=name, folder_path=given["folder"], commit_message="Weights")
out["first"] = first.oid
again = api.upload_folder(repo_id=name, folder_path=given["folder"])
out["unchanged"] = again.oid
add = lambda path, content: CommitOperationAdd(path, content)
pull = api.create_commit(name, [add("x.txt", b"x")], commit_message="Propose", create_pr=True)
out["pull"] = [pull.pr_revision, pull.pr_num]
api.create_commit(name, [add("y.txt", b"y")], commit_message="More", revision=pull.pr_revision)
out["in pull"] = api.list_repo_files(name, revision="refs/pr/1")
second = api.create_commit(
    name, [add("big.bin", b"b" * 500), CommitOperationDelete("sub/")],
    commit_message="Second", commit_description="Why", parent_commit=first.oid)
out["second"] = second.oid
out["late"] = error_of(api.create_commit, name, [add("z.txt", b"z")], commit_message="Late",
                       parent_commit=first.oid)
out["bad card"] = error_of(api.upload_file, path_or_fileobj=b"---\\n[x\\n---\\n",
                           path_in_repo="README.md", repo_id=name)
ModelCard("---\\nlicense: mit\\n---\\n# Hello").push_to_hub(name)
api.create_branch(name, branch="next", revision=first.oid)
api.create_tag(name, tag="v1", revision=second.oid)
out["tag twice"] = error_of(api.create_tag, name, tag="v1")
refs = api.list_repo_refs(name, include_pull_requests=True)
out["refs"] = [[r.ref for r in rs] for rs in (refs.branches, refs.tags, refs.pull_requests)]
api.delete_branch(name, branch="next")
api.delete_tag(name, tag="v1")
api.update_repo_settings(name, private=False, gated="manual")
info = api.model_info(name)
out["settings"] = [info.private, info.gated]
api.create_repo("ann/gone", repo_type="dataset")
api.delete_repo("ann/gone", repo_type="dataset")
out["gone"] = api.repo_exists("ann/gone", repo_type="dataset")
"""


def test_publishing_goes_through_lfs_commits_and_pull_requests(hub: Hub, tmp_path: Path) -> None:
    hub.add_user("ann", "hf_ann")
    hub.part_size = 300_000
    for path, content in FILES.items():
        target = tmp_path / "folder" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    given = {"folder": str(tmp_path / "folder")}
    out = client(hub, tmp_path / "home", PUBLISH, token="hf_ann", given=given)

    assert out["who"] == "ann"
    assert out["url"] == f"{hub.url}/ann/new"
    assert "409" in out["twice"][1]
    assert out["foreign"][0] == "HfHubHTTPError"
    assert "rights to create a model" in out["foreign"][1]
    first = hub.files("ann/new", out["first"])
    assert {path: first[path] for path in FILES} == FILES
    assert out["unchanged"] == out["first"]
    parts = [r for r in hub.requests if r.method == "PUT" and r.path.startswith("/upload/")]
    assert len(parts) == 5  # the weights in four parts, and big.bin
    assert out["pull"] == ["refs/pr/1", 1]
    assert {"x.txt", "y.txt"} < set(out["in pull"])
    second = hub.files("ann/new", out["second"])
    assert second.keys() == {".gitattributes", "big.bin", "config.json", "model.safetensors"}
    commit = hub.repo("ann/new").find(out["second"])
    assert commit is not None
    assert (commit.title, commit.message, commit.author) == ("Second", "Why", "ann")
    assert "412" in out["late"][1]
    assert "Invalid YAML" in out["bad card"][1]
    assert hub.files("ann/new").keys() == second.keys() | {"README.md"}
    assert "409" in out["tag twice"][1]
    assert out["refs"] == [
        ["refs/heads/main", "refs/heads/next"], ["refs/tags/v1"], ["refs/pr/1"],
    ]  # fmt: skip
    assert out["settings"] == [False, "manual"]
    assert out["gone"] is False


def test_a_commit_is_whole_or_not_at_all(hub: Hub) -> None:
    sha = hub.create("ann/m", {"a.txt": b"1"})
    hub.add_user("ann", "hf_ann")
    lines = [
        {"key": "header", "value": {"summary": "Both"}},
        {"key": "file", "value": {"path": "b.txt", "content": "eA==", "encoding": "base64"}},
        {"key": "lfsFile", "value": {"path": "c.bin", "algo": "sha256", "oid": "0" * 64}},
    ]
    request = urllib.request.Request(
        f"{hub.url}/api/models/ann/m/commit/main",
        data="\n".join(map(json.dumps, lines)).encode(),
        headers={"Authorization": "Bearer hf_ann", "Content-Type": "application/x-ndjson"},
    )
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=10)
    assert hub.repo("ann/m").find("main").sha == sha


# ----------------------------------------------------------------------------------------- faults

FAULTS = """
import time
from pathlib import Path
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download
api, weights = HfApi(), "model.safetensors"
def timed(call, *args, **kwargs):
    start = time.monotonic()
    found = error_of(call, *args, **kwargs)
    return [found[0], round(time.monotonic() - start, 1)]
out["cut"] = Path(hf_hub_download("me/cut", weights)).stat().st_size
out["stall"] = Path(hf_hub_download("me/stall", weights)).stat().st_size
out["busy"] = timed(lambda: [*api.list_repo_tree("me/busy")])
out["down"] = timed(lambda: [*api.list_repo_tree("me/down")])
out["refused"] = timed(api.model_info, "me/refused")
out["broken"] = timed(api.model_info, "me/broken")
"""


def test_faults_are_what_clients_meet_and_recover_from(hub: Hub, tmp_path: Path) -> None:
    for name in ("busy", "down", "refused", "broken"):
        hub.create(f"me/{name}", {"model.safetensors": WEIGHTS})
    for name in ("cut", "stall"):
        hub.create(f"me/{name}", {"model.safetensors": WEIGHTS * 14})
        # The client writes, and so keeps, 10 MiB at a time.
        hub.fail(f"^/cdn/me/{name}/", name, times=1, after=12_000_000)
    hub.fail("/me/busy/tree", 429, times=1, retry_after=0)
    hub.fail("/me/down/tree", 503, times=1)
    hub.fail("/me/refused", "refuse")
    hub.fail("/me/broken", 500)
    out = client(hub, tmp_path, FAULTS, HF_HUB_DOWNLOAD_TIMEOUT="1")

    assert [out["cut"], out["stall"]] == [len(WEIGHTS) * 14] * 2
    for name in ("cut", "stall"):
        first, second = (r for r in hub.requests if r.path.startswith(f"/cdn/me/{name}/"))
        assert first.range is None
        assert second.range == f"bytes={10 << 20}-"
        assert second.sent == len(WEIGHTS) * 14 - (10 << 20)
    assert out["busy"][0] == out["down"][0] == "none"
    assert out["busy"][1] >= 1
    assert out["down"][1] >= 1
    assert out["refused"][0] in ("ReadError", "ConnectError", "RemoteProtocolError")
    assert out["broken"][0] == "HfHubHTTPError"


def test_a_stopped_hub_comes_back_with_what_it_had(hub: Hub) -> None:
    hub.create("me/m", {"a.txt": b"abc"})
    url = hub.url
    hub.stop()
    with pytest.raises(urllib.error.URLError):
        fetch(hub, "/me/m/resolve/main/a.txt")
    hub.start()
    assert hub.url == url
    assert fetch(hub, "/me/m/resolve/main/a.txt")[1] == b"abc"


# ----------------------------------------------------------------------- what it is stocked with

STREAM = """
import datasets
def look(path, subset, split):
    found = datasets.load_dataset(path, subset, split=split, streaming=True)
    for name, kind in found.features.items():
        if isinstance(kind, datasets.Audio):
            found = found.cast_column(name, datasets.Audio(decode=False))
    rows = [*found]
    return [len(rows), sorted(rows[0]), found.n_shards]
out["sets"] = [look(*one) for one in given]
out["bad subset"] = error_of(datasets.load_dataset, given[0][0], "tiny", streaming=True)
out["none"] = error_of(datasets.load_dataset, "no/such-set", streaming=True)
closed = {"path": "kensho/spgispeech", "name": "S", "streaming": True}
out["gated"] = error_of(datasets.load_dataset, **closed, token=False)
"""


def test_every_set_that_a_preset_names_is_there(stocked_hub: Hub, tmp_path: Path) -> None:
    presets = ["data=loquacious", "data=librispeech", "data=commonvoice", "data=multiasr_gated"]
    configs = [compose([preset]).data for preset in presets]
    configs.append(compose(["+data/eval@data.eval=[open_asr,common_voice,loquacious]"]).data)
    streamed = {}  # one of each set
    for config in configs:
        for source in (*config.train.values(), *config.eval.values()):
            if source.kind == "hub":
                layout, split = SETS[source.path], source.split or "train"
                assert split in layout.configs[source.subset or "default"]
                named = {source.audio_column, source.text_column, source.id_column}
                if source.speaker_column != "speaker":  # the default may be missing
                    named.add(source.speaker_column)
                assert named - {None, ""} <= layout.features.keys(), source
                streamed[source.path] = [source.path, source.subset, split]
    assert streamed.keys() == SETS.keys()
    stocked_hub.add_user("reader", "hf_reader")
    for path in ("speechcolab/gigaspeech", "kensho/spgispeech"):
        stocked_hub.grant(path, "reader", "dataset")
    given = [*streamed.values()]
    out = client(stocked_hub, tmp_path, STREAM, token="hf_reader", given=given)
    for (path, _, split), found in zip(given, out["sets"], strict=True):
        assert found == [ROWS, sorted(SETS[path].features), 1 + split.startswith("train")], path
    assert out["bad subset"][0] == "ValueError"
    assert [out["none"][0], out["gated"][0]] == ["DatasetNotFoundError"] * 2
    assert "gated" in out["gated"][1]


SNAPSHOT = """
from tiny_audio.hub import MODEL_FILES, snapshot
out = {name: [path.name for path in snapshot(name, files=MODEL_FILES).iterdir()] for name in given}
"""


def test_of_a_model_only_one_format_is_fetched(stocked_hub: Hub, tmp_path: Path) -> None:
    """openai/whisper-large-v3-turbo holds its weights in four."""
    begin = len(stocked_hub.requests)
    (names,) = client(stocked_hub, tmp_path, SNAPSHOT, given=[WHISPER]).values()
    assert {"model.safetensors", "config.json", "preprocessor_config.json"} <= set(names)
    sent = {Path(r.path).name for r in stocked_hub.requests[begin:] if "/cdn/" in r.path}
    assert sent == {"model.safetensors"}
