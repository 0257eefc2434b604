"""What the hub answers to each address: its JSON, status codes and headers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

from tests.hub import writes
from tests.hub.calls import Answer, Call, HubError
from tests.hub.store import Blob, Commit, File, OtherBlob, Repo

TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}


def answer(call: Call) -> Answer:
    """Answer any request; raises HubError."""
    match call.parts:
        case ["api", "models" | "datasets" | "spaces" as kind, owner, name, *rest]:
            return _repo_answer(call, call.repo(TYPES[kind], f"{owner}/{name}"), rest)
        case ["api", *rest]:
            return writes.service(call, rest)
        case ["cdn", *_, sha256, _name] if sha256 in call.hub.cdn:
            blob = _changed(call, call.hub.cdn[sha256])
            return Answer(blob, 200, {"ETag": f'"{blob.sha256}"'})
        case ["upload", *rest]:
            return writes.upload(call, rest)
        case [*prefix, owner, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
            kind = TYPES[prefix[0]] if prefix else "model"
            return writes.lfs_batch(call, call.repo(kind, f"{owner}/{name[:-4]}"))
        case ["datasets" | "spaces" as kind, owner, name, "resolve" | "raw", revision, *path]:
            return _resolve(call, TYPES[kind], f"{owner}/{name}", revision, "/".join(path))
        case [owner, name, "resolve" | "raw", revision, *path]:
            return _resolve(call, "model", f"{owner}/{name}", revision, "/".join(path))
    raise HubError(404, "Not Found")


# ---------------------------------------------------------------------------------------- files


def _changed(call: Call, blob: Blob) -> Blob:
    if call.changed is None:
        return blob
    (content,) = call.changed
    return OtherBlob(blob) if content is None else Blob(content)


def _resolve(call: Call, kind: str, repo_id: str, revision: str, path: str) -> Answer:
    repo = call.repo(kind, repo_id)
    call.check_gate(repo)
    commit = call.commit(repo, revision)
    headers = {"X-Repo-Commit": commit.sha}
    file = commit.files.get(path)
    if file is None:
        raise HubError(404, "Entry not found", "EntryNotFound", **headers)
    file = File(_changed(call, file.blob), file.lfs)
    if not file.lfs:
        headers |= {"ETag": f'"{file.etag}"', "Content-Type": "text/plain; charset=utf-8"}
        headers["Content-Disposition"] = f'inline; filename="{Path(path).name}"'
        return Answer(file.blob, 200, headers)
    call.hub.cdn[file.etag] = file.blob
    location = f"{call.hub.cdn_url}/cdn/{quote(repo.id)}/{file.etag}/{quote(Path(path).name)}"
    headers |= {"X-Linked-Size": str(file.blob.size), "X-Linked-Etag": f'"{file.etag}"'}
    headers |= {"Location": location, "Accept-Ranges": "bytes"}
    return Answer(f"Found. Redirecting to {location}".encode(), 302, headers)


# ------------------------------------------------------------------------------- repositories


def _repo_answer(call: Call, repo: Repo, rest: list[str]) -> Answer:
    match call.method, rest:
        case "GET" | "HEAD", []:
            return Answer(_info(call, repo, call.commit(repo, "main")))
        case "GET" | "HEAD", ["revision", revision]:
            return Answer(_info(call, repo, call.commit(repo, revision)))
        case "GET", ["tree", revision, *path]:
            return _tree(call, repo, call.commit(repo, revision), "/".join(path))
        case "POST", ["paths-info", revision]:
            return _paths_info(call, repo, call.commit(repo, revision))
        case "GET", ["refs"]:
            return Answer(_refs(call, repo))
        case "GET", ["commits", revision]:
            history = call.commit(repo, revision).history()
            return call.page([_commit_entry(commit) for commit in history])
        case "GET", ["auth-check"]:
            call.check_gate(repo)
            return Answer({})
        case "GET", ["auth-check", "write"]:
            call.check_write(repo)
            return Answer({})
        case "POST", ["preupload", revision]:
            return writes.preupload(call, repo, revision)
        case "POST", ["commit", revision]:
            return writes.commit(call, repo, revision)
        case "PUT", ["settings"]:
            return writes.settings(call, repo)
        case "POST" | "DELETE", ["branch" | "tag" as kind, name]:
            return writes.ref(call, repo, kind, name)
    raise HubError(404, "Not Found")


def _info(call: Call, repo: Repo, commit: Commit) -> dict[str, Any]:
    card = repo.card(commit) or {}
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
    if call.flag("blobs"):
        for entry in siblings:
            about = commit.files[entry["rfilename"]].describe()
            entry |= {"size": about["size"], "blobId": about["oid"]}
            if "lfs" in about:
                lfs = about["lfs"]
                sizes = {"size": lfs["size"], "pointerSize": lfs["pointerSize"]}
                entry["lfs"] = {"sha256": lfs["oid"], **sizes}
    tags = [str(tag) for tag in card.get("tags", [])]
    tags += [f"license:{card['license']}"] if "license" in card else []
    info: dict[str, Any] = {
        "_id": hashlib.sha1(f"{repo.type} {repo.id}".encode()).hexdigest()[:24],
        "id": repo.id,
        "author": repo.owner,
        "sha": commit.sha,
        "lastModified": commit.date,
        "createdAt": [*commit.history()][-1].date,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags,
        "cardData": card,
        "siblings": siblings,
        "usedStorage": sum(file.blob.size for file in commit.files.values()),
    }
    if repo.type == "model":
        info["modelId"] = repo.id
        info |= {key: card[key] for key in ("library_name", "pipeline_tag") if key in card}
        info["config"] = _config(commit)
    if wanted := call.params.get("expand") or call.params.get("expand[]"):
        info = {key: info.get(key) for key in ("_id", "id", *wanted) if key in info}
    return info


def _config(commit: Commit) -> dict[str, Any]:
    """What a model's page tells of its config.json; nothing of one that is no JSON."""
    try:
        config = json.loads(commit.files["config.json"].blob.read())
    except (KeyError, ValueError):
        return {}
    return {key: config[key] for key in ("architectures", "model_type") if key in config}


def _entry(commit: Commit, path: str, folders: Mapping[str, str], expand: bool) -> dict[str, Any]:
    """A file or folder as listings have it."""
    entry: dict[str, Any]
    if path in folders:
        entry = {"type": "directory", "oid": folders[path], "size": 0, "path": path}
        inside = [made for name, made in commit.changed.items() if name.startswith(f"{path}/")]
        last = max(inside, key=lambda made: made.date)
    else:
        entry = {"type": "file", **commit.files[path].describe(), "path": path}
        last = commit.changed[path]
    if expand:
        entry["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.date}
        if entry["type"] == "file":
            scan = {"avScan": None, "pickleImportScan": None}
            entry["securityFileStatus"] = {"status": "safe", **scan}
    return entry


def _tree(call: Call, repo: Repo, commit: Commit, path: str) -> Answer:
    folders = commit.folders()
    if path in commit.files:
        names = [path]
    elif path and path not in folders:
        message = f"{path} does not exist on this revision"
        raise HubError(404, message, "EntryNotFound", **{"X-Repo-Commit": commit.sha})
    else:
        prefix = f"{path}/" if path else ""
        names = [name for name in [*folders, *commit.files] if name.startswith(prefix)]
        if not call.flag("recursive"):
            names = [name for name in names if "/" not in name[len(prefix) :]]
        names.sort()
    page = call.page(names)
    expand = call.flag("expand")
    page.body = [_entry(commit, name, folders, expand) for name in page.body]
    return page


def _paths_info(call: Call, repo: Repo, commit: Commit) -> Answer:
    assert isinstance(call.body, bytes)
    if "json" in (call.headers.get("Content-Type") or ""):
        wanted = call.json()
        paths, expand = wanted.get("paths", []), bool(wanted.get("expand"))
    else:
        form = parse_qs(call.body.decode())
        paths = form.get("paths", [])
        expand = form.get("expand", [""])[0].lower() in ("1", "true")
    folders = commit.folders()
    paths = [path.rstrip("/") for path in paths]
    known = [path for path in paths if path in commit.files or path in folders]
    return Answer([_entry(commit, path, folders, expand) for path in known])


def _refs(call: Call, repo: Repo) -> dict[str, Any]:
    def entries(found: Mapping[Any, Commit], ref: str) -> list[dict[str, str]]:
        return [
            {"name": f"{name}", "ref": f"refs/{ref}/{name}", "targetCommit": commit.sha}
            for name, commit in found.items()
        ]

    refs = {"branches": entries(repo.branches, "heads"), "tags": entries(repo.tags, "tags")}
    answer: dict[str, Any] = {**refs, "converts": []}
    if call.flag("include_prs"):
        answer["pullRequests"] = entries(repo.pulls, "pr")
    return answer


def _commit_entry(commit: Commit) -> dict[str, Any]:
    return {
        "id": commit.sha,
        "title": commit.title,
        "message": commit.message,
        "authors": [{"user": commit.author}],
        "date": commit.date,
    }
