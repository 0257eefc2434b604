"""Ctrl-C in the middle of a run: it saves, says how to go on, and that command goes on."""

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.helpers import arguments, rows
from tiny_audio import cli
from tiny_audio.train.distributed import held_signals


def wait_for_step(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (out / "metrics.jsonl").exists() and any(r["step"] >= step for r in rows(out)):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise TimeoutError("the run does not train")


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_stopped_run_saves_and_its_advice_goes_on(number, status, data, tmp_path):
    out = tmp_path / "run"
    words = arguments(data, out, "training.max_steps=5000", "training.eval_steps=0")
    command = [sys.executable, "-m", "tiny_audio", "train", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_step(out, 2, process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    advice = output.splitlines()[-1].strip()
    assert advice.startswith("python -m tiny_audio train ")
    stopped = rows(out)[-1]["step"]
    assert (out / "checkpoints" / f"step-{stopped:08d}").is_dir()

    _, module, name, *again = shlex.split(advice)
    assert (module, name) == ("-m", "tiny_audio")
    assert cli.run([*again, f"training.max_steps={stopped + 2}"]) == 0
    assert [row["step"] for row in rows(out)] == list(range(1, stopped + 3))


def test_signals_are_held_back_once_and_handlers_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with held_signals(patient=False) as received:
        assert received == []
        signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with held_signals(patient=True) as received:  # under a launcher
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGINT]
        for number in numbers:
            signal.raise_signal(number)
        assert received == numbers
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
