"""``python -m bench.download``: the encoder's tensors by ranges, against the whole file.

A file as large as GLM-ASR-Nano-2512's, of zeros, lies on the hub in a box of the tests, with a
latency and a rate that the server keeps to. Each way runs in a process of its own, with an empty
cache; the seconds are those of the download alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.hub.server import Hub

from bench.common import print_rows

REPO = "bench/glm-asr-sized"
TOWER, REST = 1_266_000_000, 3_246_000_000  # bytes of the audio tower and of everything else

WAYS = {
    "audio tower by ranges (ours)": "from tiny_audio.model.weights import find_tensors\n"
    f"begin = time.perf_counter(); find_tensors({REPO!r}, None, 'audio_tower')",
    "whole file (hf_hub_download)": "from huggingface_hub import hf_hub_download\n"
    f"begin = time.perf_counter(); hf_hub_download({REPO!r}, 'model.safetensors')",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.download", description=__doc__)
    parser.add_argument("--rates", nargs="*", type=float, default=[0, 100, 25], help="MB/s; 0: all")
    parser.add_argument("--latency", type=float, default=0.03, help="seconds before each answer")
    options = parser.parse_args()
    print_rows(("line", "way", "seconds", "bytes"), ["---"] * 4)
    with tempfile.TemporaryDirectory() as name, Hub() as hub:
        work = Path(name)
        hub.create(REPO, {"config.json": b"{}", "model.safetensors": _weights(work / "weights")})
        assert hub.repo(REPO).find("main").files["model.safetensors"].etag  # hashed once
        hub.latency = options.latency
        for rate in options.rates:
            hub.bandwidth = rate * 1e6 or None
            line = f"{rate:g} MB/s" if rate else "loopback"
            for way, code in WAYS.items():
                hub.requests.clear()
                code = f"import time\n{code}\nprint(time.perf_counter() - begin)"
                command, env = [sys.executable, "-c", code], hub.environ(work / "home")
                seconds = float(subprocess.check_output(command, env=env))
                shutil.rmtree(work / "home")
                sent = sum(request.sent for request in hub.requests)
                print_rows((line, way, f"{seconds:.1f}", f"{sent / 1e9:.2f} GB"))


def _weights(path: Path) -> Path:
    """A safetensors file of the published one's size, in about as many tensors."""
    table, place = {}, 0
    for prefix, size, count in (("audio_tower", TOWER, 520), ("language_model", REST, 260)):
        for number in range(count):
            end = place + size // count // 2 * 2
            info = {"dtype": "BF16", "shape": [(end - place) // 2], "data_offsets": [place, end]}
            table[f"{prefix}.layers.{number}.weight"] = info
            place = end
    head = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + place)
    return path


if __name__ == "__main__":
    main()
