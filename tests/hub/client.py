"""Running the Hugging Face clients against a hub in a box, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
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
