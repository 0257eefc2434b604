"""What changes a hub: repositories made and removed, uploads, commits; and who somebody is."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from tests.hub.calls import Answer, Call, HubError
from tests.hub.store import Blob, File, Repo, front_matter, is_lfs


def service(call: Call, rest: list[str]) -> Answer:
    """What concerns no repository that is there."""
    match call.method, rest:
        case "GET", ["whoami-v2"]:
            return _whoami(call)
        case "GET", ["agent-harnesses"]:
            return Answer({"standardEnvVars": [], "harnesses": {}})
        case "POST", ["validate-yaml"]:
            return _validate_yaml(call)
        case "POST", ["repos", "create"]:
            return _create(call)
        case "DELETE", ["repos", "delete"]:
            wanted = call.json()
            owner = wanted.get("organization") or call.user
            repo = call.repo(wanted.get("type") or "model", f"{owner}/{wanted['name']}")
            call.check_write(repo)
            with call.hub.lock:
                del call.hub.repos[repo.type, repo.id]
            return Answer({})
    raise HubError(404, "Not Found")


def _whoami(call: Call) -> Answer:
    user = call.user
    if user is None:
        raise HubError(401, "Invalid username or password.")
    token = {"displayName": "test", "role": "write"}
    return Answer(
        {
            "type": "user",
            "id": hashlib.sha1(user.encode()).hexdigest()[:24],
            "name": user,
            "fullname": user.title(),
            "isPro": False,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def _validate_yaml(call: Call) -> Answer:
    errors = _card_errors(call.json()["content"])
    found = {"errors": [{"message": line} for line in errors], "warnings": []}
    return Answer(found, 400 if errors else 200)


def _card_errors(text: str) -> list[str]:
    try:
        card = front_matter(text) or {}
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {str(error).splitlines()[0]}"]
    if "license" in card and not isinstance(card["license"], str | list):
        return ['"license" must be a string']
    if "tags" in card and not isinstance(card["tags"], list):
        return ['"tags" must be an array']
    return []


def _create(call: Call) -> Answer:
    wanted, user = call.json(), call.user
    if user is None:
        raise HubError(401, "Invalid username or password.")
    kind = wanted.get("type") or "model"
    owner = wanted.get("organization") or user
    repo_id = f"{owner}/{wanted['name']}"
    if owner != user:
        message = f'You don\'t have the rights to create a {kind} under the namespace "{owner}"'
        raise HubError(403, message)
    url = f"{call.hub.url}/{'' if kind == 'model' else kind + 's/'}{repo_id}"
    with call.hub.lock:
        if (kind, repo_id) in call.hub.repos:
            message = f"You already created this {kind} repo"
            return Answer({"error": message, "url": url}, 409, {"X-Error-Message": message})
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        call.hub.create(repo_id, repo_type=kind, private=private)
    return Answer({"url": url, "name": repo_id, "id": repo_id})


def settings(call: Call, repo: Repo) -> Answer:
    """Change who may read a repository."""
    call.check_write(repo)
    wanted = call.json()
    if "visibility" in wanted or "private" in wanted:
        repo.private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
    repo.gated = wanted.get("gated", repo.gated)
    return Answer({"private": repo.private, "gated": repo.gated})


def ref(call: Call, repo: Repo, kind: str, name: str) -> Answer:
    """Make or remove a branch or tag."""
    call.check_write(repo)
    refs = repo.branches if kind == "branch" else repo.tags
    wanted = call.json()
    with call.hub.lock:
        if call.method == "DELETE":
            if name not in refs or name == "main":
                raise HubError(404, f"No {kind} {name} to delete", "RevisionNotFound")
            del refs[name]
            return Answer({})
        start = name if kind == "tag" else wanted.get("startingPoint", "main")
        made = wanted["tag"] if kind == "tag" else name
        commit = call.commit(repo, start)
        if made in refs:
            raise HubError(409, f"Reference already exists: {made}")
        refs[made] = commit
    return Answer({})


# -------------------------------------------------------------------------------------- uploads


def preupload(call: Call, repo: Repo, revision: str) -> Answer:
    """How each file is to be uploaded."""
    if not call.flag("create_pr"):
        call.check_write(repo)
    commit = repo.find(revision)
    answers = []
    for wanted in call.json()["files"]:
        path, there = wanted["path"], commit.files.get(wanted["path"]) if commit else None
        lfs = is_lfs(path, wanted["size"], base64.b64decode(wanted["sample"]))
        mode = {"uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        answers.append({"path": path, **mode, "oid": there.etag if there else None})
    return Answer({"files": answers})


def lfs_batch(call: Call, repo: Repo) -> Answer:
    """Where to upload the objects that are not there yet."""
    if call.user is None:
        raise HubError(401, "Invalid username or password.")
    wanted = call.json()
    multipart = "multipart" in wanted.get("transfers", [])
    base = f"{call.hub.url}/upload/{repo.type}/{repo.id}"
    found = []
    for entry in wanted["objects"]:
        oid, size = entry["oid"], entry["size"]
        answer: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
        if oid not in repo.objects:
            upload: dict[str, Any] = {"href": f"{base}/{oid}/0"}
            part = call.hub.part_size
            if multipart and size > part:
                header = {f"{n + 1}": f"{base}/{oid}/{n + 1}" for n in range(-(-size // part))}
                upload = {"href": f"{base}/{oid}", "header": {"chunk_size": str(part), **header}}
            verify = {"href": f"{base}/{oid}/verify"}
            answer["actions"] = {"upload": upload, "verify": verify}
        found.append(answer)
    return Answer({"transfer": "multipart" if multipart else "basic", "objects": found})


def upload(call: Call, rest: list[str]) -> Answer:
    """An object's bytes, or one part of them; the end of the parts; the check that it is there."""
    kind, owner, name, oid, *step = rest
    repo = call.hub.repos.get((kind, f"{owner}/{name}"))
    if repo is None or len(oid) != 64:
        raise HubError(404, "Not Found")
    folder = call.hub.uploads
    match call.method, step:
        case "PUT", [number]:
            assert isinstance(call.body, Path)
            part = call.body.rename(folder / f"{oid}.{number}")
            if number == "0":
                _keep(repo, oid, part)
            return Answer(None, 200, {"ETag": f'"{Blob(part).sha1}"'})
        case "POST", []:
            whole = folder / f"{oid}.0"
            with whole.open("wb") as file:
                for number, _ in enumerate(call.json()["parts"], 1):
                    part = folder / f"{oid}.{number}"
                    for block in Blob(part).blocks():
                        file.write(block)
                    part.unlink()
            _keep(repo, oid, whole)
            return Answer({})
        case "POST", ["verify"]:
            blob = repo.objects.get(oid)
            if blob is None or blob.size != call.json().get("size"):
                raise HubError(404, f"The object {oid} is not there")
            return Answer({})
    raise HubError(404, "Not Found")


def _keep(repo: Repo, oid: str, path: Path) -> None:
    blob = Blob(path)
    if blob.sha256 != oid:
        path.unlink()
        raise HubError(400, f"The object's sha256 is {blob.sha256}, not {oid}")
    repo.objects[oid] = blob


# -------------------------------------------------------------------------------------- commits


def commit(call: Call, repo: Repo, revision: str) -> Answer:
    """All changes of a commit, or none; on a branch, on a pull request or as a new one."""
    pull = call.flag("create_pr")
    user = call.user
    if not pull:
        user = call.check_write(repo, hint=": pass `create_pr=1` to open a pull request")
    elif user is None:
        raise HubError(401, "Invalid username or password.")
    assert isinstance(call.body, bytes)
    try:
        lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
    except (ValueError, KeyError, StopIteration):
        raise HubError(400, "Invalid commit payload") from None
    with call.hub.lock:
        parent = call.commit(repo, revision)
        if header.get("parentCommit") not in (None, parent.sha):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        changes: dict[str, File | None] = {}
        for line in lines:
            changes |= _changes(repo, parent.files, line["key"], line["value"])
        made = repo.commit(
            changes,
            parent=parent,
            title=header.get("summary", ""),
            message=header.get("description", ""),
            author=user or repo.owner,
        )
        url = f"{call.hub.url}/{repo.prefix}{repo.id}"
        answer = {"success": True, "commitOid": made.sha, "hookOutput": ""}
        answer["commitUrl"] = f"{url}/commit/{made.sha}"
        if pull:
            number = len(repo.pulls) + 1
            repo.pulls[number] = made
            answer["pullRequestUrl"] = f"{url}/discussions/{number}"
        elif revision.startswith("refs/pr/"):
            repo.pulls[int(revision[8:])] = made
        elif revision in repo.branches:
            repo.branches[revision] = made
        else:
            raise HubError(400, f"{revision} is no branch")
    return Answer(answer)


def _changes(repo: Repo, files: Any, key: str, value: dict[str, Any]) -> dict[str, File | None]:
    """What one line of a commit changes."""
    path = value.get("path", "")
    if key == "file":
        content = base64.b64decode(value["content"])
        errors = _card_errors(content.decode(errors="replace")) if path == "README.md" else []
        if errors:
            raise HubError(400, f"Invalid metadata in README.md: {errors[0]}")
        return {path: File(Blob(content), lfs=False)}
    if key == "lfsFile":
        known = {file.blob.sha256: file.blob for file in files.values() if file.lfs}
        blob = repo.objects.get(value["oid"]) or known.get(value["oid"])
        if blob is None:
            raise HubError(400, f"LFS pointer {value['oid']} of {path} points to no object")
        return {path: File(blob, lfs=True)}
    if key == "deletedFile":
        if path not in files:
            raise HubError(404, f"{path} does not exist", "EntryNotFound")
        return {path: None}
    if key == "deletedFolder":
        return {name: None for name in files if name.startswith(f"{path.rstrip('/')}/")}
    if key == "header":
        return {}
    raise HubError(400, f"Unknown operation {key}")
