"""Running the Hugging Face clients against a hub in a box, each in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hub.server import Hub

_FRAME = """
import json, logging, sys
given, out = json.load(sys.stdin), {{}}
def error_of(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["none", ""]
{script}
print("RESULT", json.dumps(out))
"""


def client(
    hub: Hub,
    home: Path,
    script: str,
    *,
    token: str | None = None,
    offline: bool = False,
    given: Any = None,
    **environ: str,
) -> dict[str, Any]:
    """What `script` puts into its dict `out`; it reads `given`. Fails where the script does."""
    run = subprocess.run(
        [sys.executable, "-c", _FRAME.format(script=script)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=120,
        env=hub.environ(home, token=token, offline=offline) | environ,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(lines[-1].removeprefix("RESULT "))
    assert isinstance(found, dict)
    return found


# -------------------------------------------------------------- our own command line

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
