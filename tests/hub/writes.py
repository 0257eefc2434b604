"""What changes a hub: repositories made and removed, uploads, commits; and who somebody is."""

import base64
import hashlib
import json
from typing import Any

import yaml
from flask import g, request
from flask.typing import ResponseReturnValue

from tests.hub.answers import (
    API,
    KINDS,
    OTHERS,
    HubError,
    app,
    find_commit,
    find_repo,
    flag,
    hub,
    known_user,
)
from tests.hub.store import File, Repo, front_matter, is_lfs


def _json() -> dict[str, Any]:
    return request.get_json(force=True, silent=True) or {}


def _check_write(repo: Repo, hint: str = "") -> str:
    """The user; raises unless it is the owner."""
    user = known_user()
    if user != repo.owner:
        raise HubError(403, f"You don't have write access to {repo.id}{hint}")
    return user


@app.get("/api/whoami-v2")
def whoami() -> ResponseReturnValue:
    user = known_user()
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
    number = hashlib.sha1(user.encode()).hexdigest()[:24]
    return {"type": "user", "id": number, "name": user, "orgs": [], "auth": token}


@app.post("/api/validate-yaml")
def validate_yaml() -> ResponseReturnValue:
    error = _card_error(_json()["content"])
    return {"errors": [{"message": error}] if error else [], "warnings": []}, 400 if error else 200


def _card_error(text: str) -> str | None:
    try:
        front_matter(text)
    except yaml.YAMLError as error:
        return f"Invalid YAML: {str(error).splitlines()[0]}"
    return None


# --------------------------------------------------------------------------------- repositories


@app.post("/api/repos/create")
def create() -> ResponseReturnValue:
    wanted, user = _json(), known_user()
    kind, owner = wanted.get("type") or "model", wanted.get("organization") or user
    if owner != user:
        message = f'You don\'t have the rights to create a {kind} under the namespace "{owner}"'
        raise HubError(403, message)
    repo = Repo(f"{owner}/{wanted['name']}", kind)
    about = {"url": f"{hub.url}/{repo.address}", "name": repo.id, "id": repo.id}
    with hub.lock:
        if (kind, repo.id) in hub.repos:
            return {"error": f"You already created this {kind} repo", **about}, 409
        hub.create(repo.id, repo_type=kind, private=_wants_private(wanted))
    return about


def _wants_private(wanted: dict[str, Any]) -> bool:
    return wanted.get("visibility") == "private" or bool(wanted.get("private"))


@app.delete("/api/repos/delete")
def delete() -> ResponseReturnValue:
    wanted = _json()
    owner = wanted.get("organization") or known_user()
    repo = find_repo(wanted.get("type") or "model", f"{owner}/{wanted['name']}")
    _check_write(repo)
    with hub.lock:
        del hub.repos[repo.type, repo.id]
    return {}


@app.get(f"{API}/auth-check/write")
def may_write() -> ResponseReturnValue:
    _check_write(g.repo)
    return {}


@app.put(f"{API}/settings")
def settings() -> ResponseReturnValue:
    _check_write(g.repo)
    wanted = _json()
    if wanted.keys() & {"visibility", "private"}:
        g.repo.private = _wants_private(wanted)
    g.repo.gated = wanted.get("gated", g.repo.gated)
    return {"private": g.repo.private, "gated": g.repo.gated}


@app.post(f"{API}/branch/<branch>")
@app.post(f"{API}/tag/<revision>")
def make_ref(branch: str | None = None, revision: str | None = None) -> ResponseReturnValue:
    """A branch, or a tag of a revision."""
    _check_write(g.repo)
    wanted = _json()
    name = f"refs/heads/{branch}" if branch else f"refs/tags/{wanted['tag']}"
    commit = find_commit(revision or wanted.get("startingPoint", "main"))
    with hub.lock:
        if name in g.repo.refs:
            raise HubError(409, f"Reference already exists: {name}")
        g.repo.refs[name] = commit
    return {}


@app.delete(f"{API}/<any(branch, tag):ref>/<which>")
def delete_ref(ref: str, which: str) -> ResponseReturnValue:
    _check_write(g.repo)
    name = f"refs/{'heads' if ref == 'branch' else 'tags'}/{which}"
    if name == "refs/heads/main" or g.repo.refs.pop(name, None) is None:
        raise HubError(404, f"No {ref} {which} to delete", "RevisionNotFound")
    return {}


# -------------------------------------------------------------------------------------- uploads


@app.post(f"{API}/preupload/<revision>")
def preupload(revision: str) -> ResponseReturnValue:
    """How each file is to be uploaded."""
    if not flag("create_pr"):
        _check_write(g.repo)
    commit = g.repo.find(revision)
    answers = []
    for wanted in _json()["files"]:
        path = wanted["path"]
        there = commit.files.get(path) if commit else None
        lfs = is_lfs(path, wanted["size"], base64.b64decode(wanted["sample"]))
        mode = {"uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        answers.append({"path": path, **mode, "oid": there.etag if there else None})
    return {"files": answers}


@app.post("/<owner>/<name>.git/info/lfs/objects/batch")
@app.post(f"{OTHERS}.git/info/lfs/objects/batch")
def lfs_batch() -> ResponseReturnValue:
    """Where to upload the objects that are not there yet."""
    known_user()
    multipart = "multipart" in _json().get("transfers", [])
    kinds = {kind: plural for plural, kind in KINDS.items()}
    found = []
    for entry in _json()["objects"]:
        oid, size, part = entry["oid"], entry["size"], hub.part_size
        base = f"{hub.url}/upload/{kinds[g.repo.type]}/{g.repo.id}/{oid}"
        found.append({"oid": oid, "size": size, "authenticated": True})
        if oid in g.repo.objects:
            continue
        upload: dict[str, Any] = {"href": f"{base}/0"}
        if multipart and size > part:
            parts = {f"{n + 1}": f"{base}/{n + 1}" for n in range(-(-size // part))}
            upload = {"href": base, "header": {"chunk_size": str(part), **parts}}
        found[-1]["actions"] = {"upload": upload, "verify": {"href": f"{base}/verify"}}
    return {"transfer": "multipart" if multipart else "basic", "objects": found}


UPLOAD = f"{API.replace('/api', '/upload')}/<oid>"


@app.put(f"{UPLOAD}/<number>")
def upload(oid: str, number: str) -> ResponseReturnValue:
    """An object's bytes, or one part of them."""
    if number == "0":
        _keep(oid, request.data)
    else:
        hub.parts[oid, int(number)] = request.data
    return "", 200, {"ETag": f'"{number}"'}


@app.post(UPLOAD)
def end_parts(oid: str) -> ResponseReturnValue:
    """All parts have come."""
    count = len(_json()["parts"])
    _keep(oid, b"".join(hub.parts.pop((oid, n + 1)) for n in range(count)))
    return {}


@app.post(f"{UPLOAD}/verify")
def verify(oid: str) -> ResponseReturnValue:
    file = g.repo.objects.get(oid)
    if file is None or file.size != _json().get("size"):
        raise HubError(404, f"The object {oid} is not there")
    return {}


def _keep(oid: str, content: bytes) -> None:
    file = File(content, lfs=True)
    if file.etag != oid:
        raise HubError(400, f"The object's sha256 is {file.etag}, not {oid}")
    g.repo.objects[oid] = file


# -------------------------------------------------------------------------------------- commits


@app.post(f"{API}/commit/<revision>")
def commit(revision: str) -> ResponseReturnValue:
    """All changes of a commit, or none; on a branch, on a pull request or as a new one."""
    repo, pull = g.repo, flag("create_pr")
    hint = ": pass `create_pr=1` to open a pull request"
    user = known_user() if pull else _check_write(repo, hint)
    try:
        lines = [json.loads(line) for line in request.data.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
    except (ValueError, KeyError, StopIteration):
        raise HubError(400, "Invalid commit payload") from None
    with hub.lock:
        parent = find_commit(revision)
        if header.get("parentCommit") not in (None, parent.sha):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        number = 1 + sum(name.startswith("refs/pr/") for name in repo.refs)
        if pull:
            ref = f"refs/pr/{number}"
        elif ref not in repo.refs:
            raise HubError(400, f"{revision} is no branch")
        changes: dict[str, File | None] = {}
        for line in lines:
            changes |= _changes(parent.files, line["key"], line["value"])
        title, message = header.get("summary", ""), header.get("description", "")
        made = repo.commit(ref, parent, changes, title=title, message=message, author=user)
    url = f"{hub.url}/{repo.address}"
    answer = {"success": True, "commitOid": made.sha, "commitUrl": f"{url}/commit/{made.sha}"}
    if pull:
        answer["pullRequestUrl"] = f"{url}/discussions/{number}"
    return answer


def _changes(files: Any, key: str, value: dict[str, Any]) -> dict[str, File | None]:
    """What one line of a commit changes."""
    path = value.get("path", "")
    match key:
        case "header":
            return {}
        case "file":
            content = base64.b64decode(value["content"])
            error = path == "README.md" and _card_error(content.decode(errors="replace"))
            if error:
                raise HubError(400, f"Invalid metadata in README.md: {error}")
            return {path: File(content, lfs=False)}
        case "lfsFile":
            known = {file.etag: file for file in files.values() if file.lfs} | g.repo.objects
            if value["oid"] not in known:
                raise HubError(400, f"LFS pointer {value['oid']} of {path} points to no object")
            return {path: known[value["oid"]]}
        case "deletedFile" if path in files:
            return {path: None}
        case "deletedFile":
            raise HubError(404, f"{path} does not exist", "EntryNotFound")
        case "deletedFolder":
            return {name: None for name in files if name.startswith(f"{path.rstrip('/')}/")}
    raise HubError(400, f"Unknown operation {key}")
