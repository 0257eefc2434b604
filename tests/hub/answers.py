"""What the hub answers to reads: a Flask app with its JSON, status codes and headers.

Addresses reach the app as they came, so that a "/" inside a revision or path stays encoded.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, unquote

from flask import Flask, Response, g, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.local import LocalProxy
from werkzeug.wsgi import FileWrapper

from tests.hub.store import Commit, File, Repo

if TYPE_CHECKING:
    from tests.hub.server import Hub

app = Flask("hub in a box")
hub = cast("Hub", LocalProxy(lambda: request.environ["hub"]))
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
API = "/api/<any(models, datasets, spaces):kind>/<owner>/<name>"
OTHERS = "/<any(datasets, spaces):kind>/<owner>/<name>"


class HubError(Exception):
    """An answer that says what is wrong, in the body and in the headers that clients read."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        code_header = {"X-Error-Code": code} if code else {}
        self.status, self.headers = status, {**code_header, **headers}


@app.errorhandler(HubError)
def _refuse(error: HubError) -> ResponseReturnValue:
    message = str(error)
    return {"error": message}, error.status, {"X-Error-Message": message, **error.headers}


@app.url_value_preprocessor
def _enter(endpoint: str | None, values: dict[str, str] | None) -> None:
    request.get_data()  # an answer before all has come would look like a cut connection
    fault = request.environ["hub.fault"]
    if fault is not None and isinstance(fault.kind, int):
        after = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
        raise HubError(fault.kind, "Asked to fail", **after)
    values = {} if values is None else values
    for key in values:
        values[key] = unquote(values[key])
    if "owner" in values:
        kind = KINDS[values.pop("kind", "models")]
        repo_id = f"{values.pop('owner')}/{values.pop('name')}"
        signed = request.path.startswith("/upload/")  # the hub gave the address to who may upload
        g.repo = hub.repos[kind, repo_id] if signed else find_repo(kind, repo_id)


# ---------------------------------------------------------------------------------- permissions


def user_or_none() -> str | None:
    """Who asks; None without a token. A token that is not valid is an error."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    if not token:
        return None
    if kind.lower() != "bearer" or token not in hub.users:
        raise HubError(401, "Invalid credentials in Authorization header")
    return hub.users[token]


def known_user() -> str:
    """Who asks; raises where nobody does."""
    user = user_or_none()
    if user is None:
        raise HubError(401, "Invalid username or password.")
    return user


def find_repo(kind: str, repo_id: str) -> Repo:
    repo, user = hub.repos.get((kind, repo_id)), user_or_none()
    if repo is None or (repo.private and not repo.readable_by(user)):
        if user is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        raise HubError(404, "Repository not found", "RepoNotFound")
    return repo


def find_commit(revision: str) -> Commit:
    found: Commit | None = g.repo.find(revision)
    if found is None:
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return found


def check_gate() -> None:
    repo, user = g.repo, user_or_none()
    if not repo.gated or repo.readable_by(user):
        return
    restricted = f"Access to {repo.type} {repo.id} is restricted"
    if user is None:
        wanted = "You must have access to it and be authenticated to access it. Please log in."
        raise HubError(401, f"{restricted}. {wanted}", "GatedRepo")
    visit = f"you are not in the authorized list. Visit {hub.url}/{repo.address} to ask for access."
    raise HubError(403, f"{restricted} and {visit}", "GatedRepo")


# ---------------------------------------------------------------------------------------- files


@app.get("/<owner>/<name>/resolve/<revision>/<path:path>")
@app.get(f"{OTHERS}/resolve/<revision>/<path:path>")
def resolve(revision: str, path: str) -> ResponseReturnValue:
    check_gate()
    commit = find_commit(revision)
    headers = {"X-Repo-Commit": commit.sha}
    file = commit.files.get(path)
    if file is None:
        raise HubError(404, "Entry not found", "EntryNotFound", **headers)
    if not file.lfs:
        return _content(file, headers)
    hub.cdn[file.etag] = file
    headers |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.etag}"'}
    name = quote(Path(path).name)
    headers["Location"] = f"{hub.cdn_url}/cdn/{quote(g.repo.id)}/{file.etag}/{name}"
    return "Found", 302, headers


@app.get("/cdn/<path:repo>/<sha256>/<path>")
def cdn(repo: str, sha256: str, path: str) -> Response:
    return _content(hub.cdn[sha256], {})


def _content(file: File, headers: dict[str, str]) -> Response:
    """A file, or the part of it that a Range header asks for."""
    answer = Response(
        FileWrapper(file.open(), 1 << 16), headers=headers, mimetype="application/octet-stream"
    )
    answer.content_length = file.size
    answer.set_etag(file.etag)
    answer.make_conditional(request.environ, accept_ranges=True, complete_length=file.size)
    return answer


# --------------------------------------------------------------------------------- repositories


def flag(name: str) -> bool:
    return request.values.get(name, "").lower() in ("1", "true")


@app.get(API)
@app.get(f"{API}/revision/<revision>")
def info(revision: str = "main") -> ResponseReturnValue:
    repo, commit = g.repo, find_commit(revision)
    siblings: list[dict[str, Any]] = []
    for path, file in sorted(commit.files.items()):
        siblings.append({"rfilename": path})
        if flag("blobs"):
            about = file.describe()
            siblings[-1] |= {"size": file.size, "blobId": about["oid"]}
            if file.lfs:
                siblings[-1]["lfs"] = {"sha256": file.etag, **about["lfs"]}
    found = {"id": repo.id, "sha": commit.sha, "lastModified": commit.date, "siblings": siblings}
    wanted = request.args.getlist("expand") or found
    return {key: found[key] for key in ("id", *wanted) if key in found}


def _entry(commit: Commit, path: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"path": path}
    if path in commit.files:
        entry |= {"type": "file", **commit.files[path].describe()}
    else:
        name = hashlib.sha1(f"{commit.sha} {path}".encode()).hexdigest()
        entry |= {"type": "directory", "oid": name, "size": 0}
    if flag("expand"):
        last = commit.last_change(path)
        entry["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.date}
    return entry


@app.get(f"{API}/tree/<revision>")
@app.get(f"{API}/tree/<revision>/<path:path>")
def tree(revision: str, path: str = "") -> ResponseReturnValue:
    commit, prefix = find_commit(revision), f"{path}/" if path else ""
    inside = [name.removeprefix(prefix) for name in commit.files if name.startswith(prefix)]
    if not inside:
        message = f"{path} does not exist on this revision"
        raise HubError(404, message, "EntryNotFound", **{"X-Repo-Commit": commit.sha})
    names = {prefix + name.partition("/")[0] for name in inside}
    if flag("recursive"):
        folders = (folder for name in inside for folder in list(Path(name).parents)[:-1])
        names = {prefix + name for name in (*inside, *map(str, folders))}
    return jsonify([_entry(commit, name) for name in sorted(names)])


@app.post(f"{API}/paths-info/<revision>")
def paths_info(revision: str) -> ResponseReturnValue:
    commit = find_commit(revision)
    paths = [path.rstrip("/") for path in request.form.getlist("paths")]
    return jsonify([_entry(commit, path) for path in paths if commit.below(path)])


@app.get(f"{API}/refs")
def refs() -> ResponseReturnValue:
    found: dict[str, list[dict[str, str]]] = {}
    for key, prefix in (("branches", "heads"), ("tags", "tags"), ("pullRequests", "pr")):
        prefix = f"refs/{prefix}/"
        found[key] = [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit.sha}
            for ref, commit in g.repo.refs.items()
            if ref.startswith(prefix)
        ]
    return {**found, "converts": []}


@app.get(f"{API}/commits/<revision>")
def commits(revision: str) -> ResponseReturnValue:
    found = [
        {"id": c.sha, "title": c.title, "message": c.message, "date": c.date,
         "authors": [{"user": c.author}]}
        for c in find_commit(revision).history()
    ]  # fmt: skip
    return jsonify(found)


@app.get(f"{API}/auth-check")
def auth_check() -> ResponseReturnValue:
    check_gate()
    return {}
