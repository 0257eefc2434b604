"""A connection to the hub in a box: reads requests, lets faults happen, sends answers."""

from __future__ import annotations

import json
import re
import select
import socket
import struct
import tempfile
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tests.hub.answers import answer
from tests.hub.calls import Answer, Call, HubError
from tests.hub.store import Blob
from tests.hub.traffic import Fault, Pace, Request

if TYPE_CHECKING:
    from tests.hub.server import Hub

BLOCK = 1 << 20


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with connections kept open."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "HubInABox"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def setup(self) -> None:
        super().setup()
        self._pace = Pace()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def serve(self) -> None:
        """Answer one request of any method."""
        raw, _, query = self.path.partition("?")
        record = Request(
            self.command,
            unquote(raw),
            query,
            self.headers.get("Range"),
            "Authorization" in self.headers,
        )
        self.hub.requests.append(record)
        fault = self.hub.fault(record.method, record.path)
        if fault is not None and fault.kind == "refuse":
            self.close_connection = True
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return
        body = self._read_body()
        time.sleep(self.hub.latency)
        try:
            if fault is not None and isinstance(fault.kind, int):
                raise HubError(fault.kind, "Asked to fail", retry_after=fault.retry_after)
            call = Call(self.hub, self.command, raw, query, self.headers, body)
            if fault is not None and fault.kind == "change":
                call.changed = (fault.content,)
            found = answer(call)
        except HubError as error:
            found = error.answer()
        except Exception as error:
            traceback.print_exc()  # a mistake in the box itself: seen in the test's output
            found = HubError(500, f"Internal Error: {error!r}").answer()
        finally:
            if isinstance(body, Path):
                body.unlink(missing_ok=True)
        self._send(found, record, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = serve  # noqa: N815

    # ------------------------------------------------------------------------------- bodies

    def _read_body(self) -> bytes | Path:
        """The request's body; what is PUT to an upload address goes to a file."""
        if self.command != "PUT" or not self.path.startswith("/upload/"):
            return b"".join(self._body_blocks())
        with tempfile.NamedTemporaryFile(dir=self.hub.uploads, delete=False) as file:
            for block in self._body_blocks():
                file.write(block)
        return Path(file.name)

    def _body_blocks(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            block = self.rfile.read(min(left, BLOCK))
            if not block:
                raise ConnectionError("the body was cut short")
            left -= len(block)
            yield block

    # ------------------------------------------------------------------------------ answers

    def _send(self, found: Answer, record: Request, fault: Fault | None) -> None:
        body = found.body
        blob = body if isinstance(body, Blob) else Blob(_bytes_of(body))
        headers = dict(found.headers)
        status, start, stop = found.status, 0, blob.size
        if isinstance(body, Blob):
            headers.setdefault("Content-Type", "application/octet-stream")
            headers["Accept-Ranges"] = "bytes"
            if record.range is not None and _fresh(self.headers.get("If-Range"), headers):
                status, start, stop = _part(record.range, blob.size)
                size = "*" if status == 416 else f"{start}-{stop - 1}"
                if status != 200:
                    headers["Content-Range"] = f"bytes {size}/{blob.size}"
        elif body is not None and not isinstance(body, bytes):
            headers.setdefault("Content-Type", "application/json; charset=utf-8")
        if fault is not None and fault.kind == "stall" and fault.after == 0:
            return self._stall()
        record.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command == "HEAD" and fault is None:
            return
        if self.command != "HEAD":
            limit = stop
            if fault is not None and fault.kind in ("stall", "cut"):
                limit = min(stop, start + fault.after)
            self._send_blocks(blob, start, limit, record)
        if fault is not None and fault.kind == "stall":
            self._stall()
        elif fault is not None and fault.kind == "cut":
            self.close_connection = True

    def _send_blocks(self, blob: Blob, start: int, stop: int, record: Request) -> None:
        rates = [rate for rate in (self.hub.bandwidth, self.hub.bandwidth_total) if rate]
        step = max(1, min(BLOCK, int(min(rates) / 20))) if rates else BLOCK
        for block in blob.blocks(start, stop, step):
            self._pace.wait(len(block), self.hub.bandwidth)
            self.hub.pace.wait(len(block), self.hub.bandwidth_total)
            self.connection.sendall(block)
            record.sent += len(block)

    def _stall(self) -> None:
        """Send nothing more until the client or the hub goes away."""
        self.close_connection = True
        while not self.hub.stopping.wait(0.02):
            if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(
                1, socket.MSG_PEEK
            ):
                return


def _bytes_of(body: Any) -> bytes:
    if body is None:
        return b""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def _fresh(condition: str | None, headers: dict[str, str]) -> bool:
    return condition is None or condition == headers.get("ETag")


def _part(wanted: str, size: int) -> tuple[int, int, int]:
    """Status, start and stop of what a Range header asks for; several ranges give the whole."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted.strip())
    if match is None or not any(match.groups()):
        return 200, 0, size
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    return (206, start, stop) if start < stop else (416, 0, 0)
