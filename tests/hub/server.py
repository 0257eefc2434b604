"""A hub in a box: one loopback server that the Hugging Face clients talk to through HF_ENDPOINT.

    with Hub() as hub:
        hub.create("me/model", {"config.json": b"{}", "model.safetensors": Path("large")})
        subprocess.run([...], env=hub.environ(tmp_path / "home"))
        assert hub.requests[0].path == "/api/models/me/model"

It answers what huggingface_hub, transformers and datasets ask for, with the hub's own status codes
and headers (`answers.py`); large files are redirected to another origin, as to its CDN.
There is no Xet.
"""

import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from tests.hub import answers, writes  # noqa: F401 (writes adds its routes to the app)
from tests.hub.store import GITATTRIBUTES, File, Repo

FOREIGN = re.compile(
    r"(HF|HUGGING_?FACE|HUGGINGFACE_HUB|TRANSFORMERS|DATASETS)_.*|.*_PROXY", re.IGNORECASE
)


class Handler(WSGIRequestHandler):
    """A connection for each request, so that an exception ends it; nothing is logged."""

    protocol_version = "HTTP/1.0"

    def log_request(self, *about: object) -> None:
        pass


@dataclass
class Request:
    """A request that came in; `status` is 0 and `sent` grows while the answer is under way."""

    method: str
    path: str  # decoded, without the query
    range: str | None
    authorization: bool
    status: int = 0
    sent: int = 0  # bytes of the body


@dataclass
class Fault:
    """What is to go wrong with requests whose decoded path the pattern is found in.

    kind: `refuse`: the connection is cut before anything is done; `cut`: it is cut, or `stall`:
    nothing more comes, `after` so many bytes of the body; a number: that status, with
    `retry_after` seconds. times: so many requests (None: all).
    """

    pattern: str
    kind: str | int
    times: int | None = None
    after: int = 0
    retry_after: float | None = None
    hits: int = 0


class Hub:
    """A hub on a port of this machine, in its own threads, until `stop` or the end of the block.
    `url` is what HF_ENDPOINT is to be; credentials must not be sent to `cdn_url`.
    """

    latency = 0.0  # seconds before each answer
    bandwidth: float | None = None  # bytes a second on all connections together
    part_size = 1 << 30  # larger LFS files are uploaded in parts

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.repos: dict[tuple[str, str], Repo] = {}
        self.users: dict[str, str] = {}  # token -> name
        self.cdn: dict[str, File] = {}  # sha256 -> what a redirect led to
        self.parts: dict[tuple[str, int], bytes] = {}  # of an LFS object that is being uploaded
        self.lock = threading.RLock()  # held while anything is changed
        self._stopping = threading.Event()
        self._server: BaseWSGIServer | None = None
        self._line_free = 0.0  # when all bytes so far will have passed at `bandwidth`
        self._port = 0
        self.start()

    def start(self) -> None:
        """Listen, at the same port as before."""
        assert self._server is None, "the hub is running"
        self._stopping.clear()
        self._server = make_server(
            "127.0.0.1", self._port, self, threaded=True, request_handler=Handler
        )
        self._port = self._server.port
        self.url, self.cdn_url = (f"http://{h}:{self._port}" for h in ("127.0.0.1", "localhost"))
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening and cut all connections; what is in the hub stays."""
        server, self._server = self._server, None
        if server is not None:
            self._stopping.set()
            server.shutdown()
            server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request, as a WSGI application; where it raises, the connection is cut."""
        raw = environ["RAW_URI"].partition("?")[0]  # "/" inside a revision is encoded
        record = Request(
            *(environ["REQUEST_METHOD"], unquote(raw), environ.get("HTTP_RANGE")),
            authorization="HTTP_AUTHORIZATION" in environ,
        )
        self.requests.append(record)
        fault = self._meet_fault(record.path)
        if fault and fault.kind == "refuse":
            raise ConnectionResetError
        time.sleep(self.latency)

        def start(status: str, *rest: Any) -> Any:
            record.status = int(status.split()[0])
            return start_response(status, *rest)

        environ |= {"PATH_INFO": raw, "hub": self, "hub.fault": fault}
        return self._send(answers.app.wsgi_app(environ, start), record, fault)

    def _send(self, body: Iterable[bytes], record: Request, fault: Fault | None) -> Iterator[bytes]:
        broken = fault is not None and fault.kind in ("cut", "stall")
        for block in body:
            if broken:
                block = block[: fault.after - record.sent]
                if not block:
                    break
            self._wait(len(block))
            record.sent += len(block)
            yield block
        if broken:
            if fault.kind == "stall":
                self._stopping.wait()
            raise ConnectionResetError

    def _wait(self, count: int) -> None:
        if self.bandwidth is not None:
            with self.lock:
                now = time.monotonic()
                self._line_free = max(self._line_free, now) + count / self.bandwidth
            time.sleep(self._line_free - now)
        if self._stopping.is_set():
            raise ConnectionResetError

    def _meet_fault(self, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if re.search(fault.pattern, path) and fault.hits != fault.times:
                    fault.hits += 1
                    return fault
        return None

    def fail(self, pattern: str, kind: str | int, **how: Any) -> None:
        with self.lock:
            self.faults.append(Fault(pattern, kind, **how))

    def create(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path] | None = None,
        *,
        repo_type: str = "model",
        private: bool = False,
        gated: bool | str = False,
    ) -> str:
        """Make a repository; its newest commit's sha. Files given as paths stay where they are."""
        with self.lock:
            assert (repo_type, repo_id) not in self.repos, f"{repo_id} is there already"
            repo = Repo(repo_id, repo_type, private, "manual" if gated is True else gated)
            self.repos[repo_type, repo_id] = repo
            first = {".gitattributes": File(GITATTRIBUTES, lfs=False)}
            made = repo.commit(
                "refs/heads/main", None, first, title="initial commit", author=repo.owner
            )
            return self.commit(repo_id, files, repo_type=repo_type) if files else made.sha

    def commit(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path | None],
        *,
        repo_type: str = "model",
        branch: str = "main",
        title: str = "Upload files",
    ) -> str:
        """Put files, or remove those that are None; the sha. A new branch starts at main."""
        with self.lock:
            repo = self.repo(repo_id, repo_type)
            changes = {p: None if c is None else File.at(p, c) for p, c in files.items()}
            parent = repo.find(f"refs/heads/{branch}") or repo.find("main")
            made = repo.commit(
                f"refs/heads/{branch}", parent, changes, title=title, author=repo.owner
            )
            return made.sha

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        return self.repos[repo_type, repo_id]

    def files(
        self, repo_id: str, revision: str = "main", repo_type: str = "model"
    ) -> dict[str, bytes]:
        commit = self.repo(repo_id, repo_type).find(revision)
        assert commit is not None, f"{repo_id} has no revision {revision}"
        return {path: file.read() for path, file in commit.files.items()}

    def add_user(self, name: str, token: str) -> None:
        """Make a token valid. A user may write to the repositories under `name/`, and no others."""
        self.users[token] = name

    def grant(self, repo_id: str, user: str, repo_type: str = "model") -> None:
        self.repo(repo_id, repo_type).granted.add(user)

    def environ(
        self, home: Path, *, offline: bool = False, token: str | None = None
    ) -> dict[str, str]:
        """The whole environment of a process that is to see this hub and the cache `home` alone."""
        environ = {key: value for key, value in os.environ.items() if not FOREIGN.fullmatch(key)}
        environ |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
        }
        environ |= {"HF_HUB_OFFLINE": "1"} if offline else {}
        return environ | ({"HF_TOKEN": token} if token else {})
