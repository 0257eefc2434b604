"""The hub in a box answers the real clients as the hub does."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path

import pytest

from tests.hub import inside
from tests.hub.client import WHISPER, client
from tests.hub.datasets import ROWS, SETS
from tests.hub.inside import FILES, WEIGHTS
from tests.hub.server import Hub
from tiny_audio.compose import compose


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


def test_what_is_in_a_repository_is_read_in_every_way(hub: Hub, tmp_path: Path) -> None:
    card = b"---\nlicense: mit\npipeline_tag: automatic-speech-recognition\ntags: [a, b]\n---\n"
    old = hub.create("me/model", {"config.json": b"old", "README.md": card})
    hub.repo("me/model").refs["refs/tags/v1"] = hub.repo("me/model").commits[old]
    sha = hub.commit("me/model", FILES, title="Better")
    hub.commit("me/model", {"config.json": None, "extra": b"x"}, branch="dev/next")
    hub.page_size = 2
    client(hub, tmp_path, inside.read, old, sha, hub.cdn_url)
    served = [r for r in hub.requests if r.path.startswith("/cdn/") and r.range]
    assert served
    assert all(r.sent < len(WEIGHTS) and r.status == 206 for r in served)
    before = len(hub.requests)
    client(hub, tmp_path, inside.read_offline, sha, offline=True)
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


def test_private_and_gated_repositories_let_in_whom_they_should(hub: Hub, tmp_path: Path) -> None:
    hub.create("ann/private", {"a.txt": b"1"}, private=True)
    hub.create("ann/gated", {"a.txt": b"1"}, gated=True)
    for name in ("ann", "bob", "eve"):
        hub.add_user(name, f"hf_{name}")
    hub.grant("ann/gated", "eve")
    tokens = {"nobody": False, "wrong": "hf_wrong", "stranger": "hf_bob", "granted": "hf_eve"}
    tokens["owner"] = "hf_ann"  # the last, who deletes the file
    out = client(hub, tmp_path, inside.visit, str(tmp_path), tokens)
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


def test_publishing_goes_through_lfs_commits_and_pull_requests(hub: Hub, tmp_path: Path) -> None:
    hub.add_user("ann", "hf_ann")
    hub.part_size = 300_000
    for path, content in FILES.items():
        target = tmp_path / "folder" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    folder = str(tmp_path / "folder")
    first, second = client(hub, tmp_path / "home", inside.publish, folder, token="hf_ann")
    assert FILES.items() <= hub.files("ann/new", first).items()
    parts = [r for r in hub.requests if r.method == "PUT" and r.path.startswith("/upload/")]
    assert len(parts) == 5  # the weights in four parts, and big.bin
    commit = hub.repo("ann/new").commits[second]
    left = {".gitattributes", "big.bin", "config.json", "model.safetensors"}
    assert commit.files.keys() == left
    assert (commit.title, commit.message, commit.author) == ("Second", "Why", "ann")
    assert hub.files("ann/new").keys() == left | {"README.md"}


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
    client(hub, tmp_path, inside.meet_faults, HF_HUB_DOWNLOAD_TIMEOUT="1")
    for name in ("cut", "stall"):
        first, second = (r for r in hub.requests if r.path.startswith(f"/cdn/me/{name}/"))
        assert (first.range, first.sent) == (None, 12_000_000)
        assert second.range == f"bytes={10 << 20}-"
        assert second.sent == len(WEIGHTS) * 14 - (10 << 20)


def test_a_stopped_hub_comes_back_with_what_it_had(hub: Hub) -> None:
    hub.create("me/m", {"a.txt": b"abc"})
    url = hub.url
    hub.stop()
    with pytest.raises(urllib.error.URLError):
        fetch(hub, "/me/m/resolve/main/a.txt")
    hub.start()
    assert hub.url == url
    assert fetch(hub, "/me/m/resolve/main/a.txt")[1] == b"abc"


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
    out = client(stocked_hub, tmp_path, inside.stream, given, token="hf_reader")
    for (path, _, split), found in zip(given, out, strict=True):
        assert found == [ROWS, sorted(SETS[path].features), 1 + split.startswith("train")], path


def test_of_a_model_only_one_format_is_fetched(stocked_hub: Hub, tmp_path: Path) -> None:
    """openai/whisper-large-v3-turbo holds its weights in four."""
    begin = len(stocked_hub.requests)
    names = client(stocked_hub, tmp_path, inside.fetch_model, WHISPER)
    assert {"model.safetensors", "config.json", "preprocessor_config.json"} <= set(names)
    sent = {Path(r.path).name for r in stocked_hub.requests[begin:] if "/cdn/" in r.path}
    assert sent == {"model.safetensors"}
