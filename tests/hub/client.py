"""Running the Hugging Face clients against a hub in a box, each in a process of its own."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hub.server import Hub

CALL = """
import json, sys
from tests.hub import inside
given = json.load(sys.stdin)
print("RESULT", json.dumps(getattr(inside, given["call"])(*given["args"])))
"""


def client(
    hub: Hub,
    home: Path,
    call: Callable[..., Any],
    *args: Any,
    token: str | None = None,
    offline: bool = False,
    **environ: str,
) -> Any:
    """What a function of `inside.py` returns in a process that sees the hub and a cache alone."""
    run = subprocess.run(
        [sys.executable, "-c", CALL],
        input=json.dumps({"call": call.__name__, "args": args}),
        capture_output=True,
        text=True,
        timeout=120,
        env=hub.environ(home, token=token, offline=offline) | environ,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout.rpartition("RESULT ")[2])


GLM, QWEN = "zai-org/GLM-ASR-Nano-2512", "Qwen/Qwen3-0.6B"
WHISPER = "openai/whisper-large-v3-turbo"
COMMANDS = """
import json, sys
from tiny_audio.cli import run
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["tiny-audio", *arguments]
    try:
        status = run(arguments)
    except SystemExit as left:
        status = left.code
    for stream in (sys.stdout, sys.stderr):
        print(f"\\n#### {status}", file=stream, flush=True)
"""
QUICK = [
    *("training.max_steps=3", "training.warmup_steps=1", "training.eval_steps=3"),
    *("training.save_steps=3", "training.logging_steps=1", "training.eval_utterances=2"),
    *("data.num_workers=0", "training.batch_seconds=6", "device=cpu"),
]


@dataclass
class Result:
    status: int
    out: str
    err: str


def commands(env: dict[str, str], cwd: Path, *lines: Sequence[str]) -> list[Result]:
    """Run command lines one after the other in one process."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(lines)],
        capture_output=True,
        text=True,
        env=env,
        cwd=cwd,
        timeout=240,
    )
    streams = [re.split(r"\n#### (.*)\n", text)[:-1] for text in (done.stdout, done.stderr)]
    out, err = streams
    assert len(out) == len(err) == 2 * len(lines), done.stderr
    return [Result(int(out[i + 1]), out[i].strip(), err[i].strip()) for i in range(0, len(out), 2)]
