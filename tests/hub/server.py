"""A hub in a box: one loopback server that the Hugging Face clients talk to through HF_ENDPOINT.

    with Hub() as hub:
        hub.create("me/model", {"config.json": b"{}", "model.safetensors": Path("large")})
        subprocess.run([...], env=hub.environ(tmp_path / "home"))
        assert hub.requests[0].path == "/api/models/me/model"

It answers what huggingface_hub, transformers and datasets ask for, with the hub's own status codes
and headers (`answers.py`); large files are redirected to another origin, as to its CDN.
There is no Xet.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.hub.handler import Handler
from tests.hub.store import GITATTRIBUTES, Blob, Commit, File, Repo
from tests.hub.traffic import Fault, Pace, Request

Content = bytes | Path | Blob


class Hub:
    """A hub on a port of this machine, in its own threads, until `stop` or the end of the block.

    Attributes:
        url: what HF_ENDPOINT is to be.
        requests: every request, in the order of arrival.
        latency: seconds before each answer.
        bandwidth: bytes a second on each connection; None: as fast as it goes.
        bandwidth_total: bytes a second on all connections together.
        page_size: entries on a page of a listing; further pages are linked.
        part_size: larger LFS files are uploaded in parts.
    """

    latency = 0.0
    bandwidth: float | None = None
    bandwidth_total: float | None = None
    page_size = 1000
    part_size = 1 << 30

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.repos: dict[tuple[str, str], Repo] = {}
        self.users: dict[str, str] = {}  # token -> name
        self.cdn: dict[str, Blob] = {}  # sha256 -> what a redirect led to
        self.lock = threading.RLock()  # held while anything is changed
        self.pace = Pace()
        self.stopping = threading.Event()
        self._faults: list[Fault] = []
        self._server: Server | None = None
        self._port = 0
        self.uploads = Path(tempfile.mkdtemp(prefix="hub-uploads-"))
        self.start()

    # ---------------------------------------------------------------------------- the server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def cdn_url(self) -> str:
        """The other origin: credentials must not be sent there."""
        return f"http://localhost:{self._port}"

    def start(self) -> None:
        """Listen, at the same port as before."""
        assert self._server is None, "the hub is running"
        self.stopping.clear()
        self._server = Server(self, self._port)
        self._port = self._server.server_address[1]
        run = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        run.start()

    def stop(self) -> None:
        """Stop listening and cut all connections; what is in the hub stays."""
        server, self._server = self._server, None
        if server is not None:
            self.stopping.set()
            server.shutdown()
            server.server_close()
            server.cut_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()
        shutil.rmtree(self.uploads, ignore_errors=True)

    # ------------------------------------------------------------------------ what is in it

    def create(
        self,
        repo_id: str,
        files: Mapping[str, Content] | None = None,
        *,
        repo_type: str = "model",
        private: bool = False,
        gated: bool | str = False,
        author: str | None = None,
    ) -> str:
        """Make a repository; its newest commit's sha. Files given as paths stay where they are."""
        with self.lock:
            assert (repo_type, repo_id) not in self.repos, f"{repo_id} is there already"
            repo = Repo(repo_id, repo_type, private, "manual" if gated is True else gated)
            self.repos[repo_type, repo_id] = repo
            first = {".gitattributes": File.of(".gitattributes", GITATTRIBUTES)}
            author = author or repo.owner
            repo.branches["main"] = repo.commit(
                first, parent=None, title="initial commit", author=author
            )
            if files:
                return self.commit(repo_id, files, repo_type=repo_type)
            return repo.branches["main"].sha

    def commit(
        self,
        repo_id: str,
        files: Mapping[str, Content | None],
        *,
        repo_type: str = "model",
        branch: str = "main",
        title: str = "Upload files",
    ) -> str:
        """Put files, or remove those that are None; the sha. A new branch starts at main."""
        with self.lock:
            repo = self.repo(repo_id, repo_type)
            changes = {p: None if c is None else File.of(p, c) for p, c in files.items()}
            parent = repo.branches.get(branch) or repo.branches["main"]
            made = repo.commit(changes, parent=parent, title=title, author=repo.owner)
            repo.branches[branch] = made
            return made.sha

    def tag(
        self, repo_id: str, name: str, revision: str = "main", repo_type: str = "model"
    ) -> None:
        """Tag a revision."""
        with self.lock:
            repo = self.repo(repo_id, repo_type)
            commit = repo.find(revision)
            assert commit is not None, f"{repo_id} has no revision {revision}"
            repo.tags[name] = commit

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        """The repository, with all its commits."""
        return self.repos[repo_type, repo_id]

    def files(
        self, repo_id: str, revision: str = "main", repo_type: str = "model"
    ) -> dict[str, bytes]:
        """What is in a revision."""
        commit: Commit | None = self.repo(repo_id, repo_type).find(revision)
        assert commit is not None, f"{repo_id} has no revision {revision}"
        return {path: file.blob.read() for path, file in commit.files.items()}

    def add_user(self, name: str, token: str) -> None:
        """Make a token valid. A user may write to the repositories under `name/`, and no others."""
        self.users[token] = name

    def grant(self, repo_id: str, user: str, repo_type: str = "model") -> None:
        """Let a user read a gated or private repository."""
        self.repo(repo_id, repo_type).granted.add(user)

    # ------------------------------------------------------------------------------ clients

    def environ(
        self, home: Path, *, offline: bool = False, token: str | None = None
    ) -> dict[str, str]:
        """The whole environment of a process that is to see this hub and the cache `home` alone."""
        foreign = re.compile(
            r"(HF|HUGGING_?FACE|HUGGINGFACE_HUB|TRANSFORMERS|DATASETS)_.*|.*_PROXY", re.IGNORECASE
        )
        environ = {key: value for key, value in os.environ.items() if not foreign.fullmatch(key)}
        environ |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
        }
        if offline:
            environ |= {"HF_HUB_OFFLINE": "1"}
        if token is not None:
            environ |= {"HF_TOKEN": token}
        return environ

    # ------------------------------------------------------------------------------- faults

    def fail(
        self,
        pattern: str,
        kind: str | int,
        *,
        times: int | None = None,
        after: int = 0,
        retry_after: float | None = None,
        method: str | None = None,
        content: bytes | None = None,
    ) -> Fault:
        """Let requests go wrong whose decoded path the regular expression is found in.

        Args:
            kind: `refuse`: the connection is reset; `stall`: nothing more comes; `cut`: the
                connection is reset; both `after` so many bytes of the body. A number: that
                status. `change`: the file and its ETag differ (`content`, or else every byte).
            times: so many requests (None: all).
            retry_after: seconds to say with a status.
            method: only requests with it.
        """
        assert isinstance(kind, int) or kind in ("refuse", "stall", "cut", "change"), kind
        fault = Fault(re.compile(pattern), kind, times, after, retry_after, method, content)
        with self.lock:
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Forget all faults; stalled answers go on waiting."""
        with self.lock:
            self._faults.clear()

    def fault(self, method: str, path: str) -> Fault | None:
        """The first fault that a request meets; it is counted."""
        with self.lock:
            for fault in self._faults:
                if fault.method not in (None, method) or not fault.pattern.search(path):
                    continue
                if fault.times is None or fault.hits < fault.times:
                    fault.hits += 1
                    return fault
        return None


class Server(ThreadingHTTPServer):
    """The listening socket, and the connections to cut at the end."""

    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: Hub, port: int) -> None:
        self.hub = hub
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER):
            self.close_request(request)  # at once: the other side sees a reset
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients come and go
            super().handle_error(request, client_address)

    def cut_all(self) -> None:
        """End every connection."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):  # it has just been closed
                connection.shutdown(socket.SHUT_RDWR)
