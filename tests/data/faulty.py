"""An HTTP server on this machine that serves a folder, and fails for chosen files as it is told."""

import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any


@dataclass
class Fault:
    """What goes wrong with one file, `times` times (None: always).

    kind: ``refuse`` drops the connection, ``busy`` answers 503, ``gone`` 404; ``stall`` and
    ``cut`` stop at byte `at` of the file, ``garbage`` replaces what follows it, ``trickle`` sends
    a few bytes now and then, ``huge`` declares a TB and stalls, ``endless`` sends 64 MB without a
    length.
    """

    kind: str
    at: int = 0
    times: int | None = None


@dataclass
class Server:
    """Where it is, what it does, and how often it was asked for each file."""

    url: str
    faults: dict[str, Fault] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    sent: int = 0  # MB of endless files
    ranges: bool = True
    lengths: bool = True  # whether it tells how long a file is
    ended: Event = field(default_factory=Event)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve the folder until the block is left."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            name = self.path.partition("?")[0].lstrip("/")
            server.asked[name] += 1
            fault = server.faults.get(name, Fault("none"))
            if fault.times is not None:
                fault.times -= 1
                fault = fault if fault.times >= 0 else Fault("none")
            self.answer(folder / name, fault)

        def answer(self, path: Path, fault: Fault) -> None:
            if fault.kind == "refuse":
                self.close_connection = True
                return
            if fault.kind in ("busy", "gone"):
                self.send_error(503 if fault.kind == "busy" else 404)
                return
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            if fault.kind == "garbage":
                data = data[: fault.at] + random.Random(1).randbytes(len(data) - fault.at)
            asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start = int(asked[1]) if asked and server.ranges else 0
            last = int(asked[2]) if asked and server.ranges and asked[2] else len(data) - 1
            last = min(last, len(data) - 1)
            self.send_response(206 if asked and server.ranges else 200)
            if asked and server.ranges:
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(data)}")
            if server.lengths and fault.kind != "endless":
                length = 1 << 40 if fault.kind == "huge" else last + 1 - start
                self.send_header("Content-Length", str(length))
            self.end_headers()
            stops = fault.kind in ("stall", "cut", "huge")
            stop = min(fault.at, last + 1) if stops else last + 1
            try:
                while fault.kind == "endless" and server.sent < 64:
                    self.wfile.write(bytes(1 << 20))
                    server.sent += 1
                while fault.kind == "trickle" and not server.ended.wait(0.05):
                    self.wfile.write(b"x")
                self.wfile.write(data[start : max(start, stop)])
                if fault.kind in ("stall", "huge") and stop <= last:
                    server.ended.wait(30)
            except OSError:
                pass  # whoever asked has hung up
            self.close_connection = True

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(f"http://127.0.0.1:{http.server_port}")
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        http.shutdown()
        http.server_close()
        thread.join()
