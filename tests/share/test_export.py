"""Exported, the model is the same in a process that has transformers alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.share.helpers import checkpoint, prompt_logits
from tiny_audio.audio.io import load_audio
from tiny_audio.cli import run
from tiny_audio.infer.transcribe import Recogniser
from tiny_audio.model.checkpoint import load_checkpoint

STOCK = """
import sys
sys.modules["tiny_audio"] = None  # whoever imports it fails
import json
import numpy as np
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor
folder, work = sys.argv[1:]
processor = AutoProcessor.from_pretrained(folder)
model = AutoModelForMultimodalLM.from_pretrained(folder)
assert model.dtype == torch.float32, model.dtype
clips = [array for _, array in sorted(np.load(f"{work}/clips.npz").items())]
def texts(batch):
    inputs = processor.apply_transcription_request(batch)
    ids = model.generate(**inputs, max_new_tokens=40)
    written = ids[:, inputs["input_ids"].shape[1]:]
    return processor.batch_decode(written, skip_special_tokens=True)
found = {}
for number, clip in enumerate(clips):
    inputs = processor.apply_transcription_request(clip)
    with torch.no_grad():
        found[f"{number:03d}"] = model(**inputs).logits[0].numpy()
np.savez(f"{work}/logits.npz", **found)
alone = [texts([clip])[0] for clip in clips]
print(json.dumps([alone, texts(clips)]))
"""


def stock(
    folder: Path, work: Path, clips: list[np.ndarray]
) -> tuple[list[np.ndarray], list[list[str]]]:
    """Logits of the prompts, and the texts of each clip alone and of all together."""
    np.savez(work / "clips.npz", **{f"{n:03d}": clip for n, clip in enumerate(clips)})
    command = [sys.executable, "-c", STOCK, str(folder), str(work)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    logits = [array for _, array in sorted(np.load(work / "logits.npz").items())]
    return logits, json.loads(done.stdout.splitlines()[-1])


def compare(source: Path, work: Path, clips: list[np.ndarray]) -> None:
    """Logits within 1e-4, texts equal as far as both go on."""
    assert run(["export", str(source), str(work / "out"), "--format", "transformers"]) == 0
    model = load_checkpoint(source, device="cpu", dtype="float32")
    found, (alone, together) = stock(work / "out", work, clips)
    assert alone == together
    for clip, theirs, text in zip(clips, found, alone, strict=True):
        ours = prompt_logits(model, torch.from_numpy(clip))
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4)
        off = {"stop_loops": False, "no_speech_threshold": None}
        mine = Recogniser(model).transcribe(clip, **off).text
        both = min(len(mine), len(text.strip()))  # each has its own cap on tokens
        assert mine[:both] == text.strip()[:both]
        assert bool(mine) == bool(text.strip())


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_transformers_alone_computes_the_same(lora: bool, tmp_path: Path) -> None:
    """Also of clips that end within a hop, and with adapters, which are merged."""
    settings = ["+experiments=glm", "model.encoder.window_seconds=4"]
    source = checkpoint(tmp_path / "run", *settings, lora=lora)
    rng = np.random.default_rng(0)
    sizes = (64_000, 37_001, 30_719, 2_561, 16_000)
    clips = [rng.normal(0, 0.05, size).astype(np.float32) for size in sizes]
    compare(source, tmp_path, clips)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not any(name.endswith((".py", ".bin", ".pt")) for name in names)


@pytest.mark.slow
def test_transformers_alone_writes_the_same_of_real_speech(
    shared_data: Path, tmp_path: Path
) -> None:
    settings = ["+experiments=glm", "model.encoder.window_seconds=32"]
    source = checkpoint(tmp_path / "run", *settings)
    files = sorted((shared_data / "speech_test").glob("*.flac"))
    clips = [load_audio(file) for file in files]
    compare(source, tmp_path, [clip for clip in clips if len(clip) <= 32 * 16_000])


def test_what_transformers_has_no_place_for_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = checkpoint(tmp_path / "run")
    out = str(tmp_path / "out")
    for arguments, part in (
        ([str(source), out], "no class for the projector mlp"),
        ([str(source), str(tmp_path)], "exists; choose a new folder"),
        ([str(source), out, "--format", "onnx"], "use transformers or pipeline"),
    ):
        assert run(["export", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert part in error
    uneven = ["+experiments=glm", "model.encoder.window_seconds=30"]
    assert run(["export", str(checkpoint(tmp_path / "uneven", *uneven)), out]) == 2
    assert "gives 750 encoder frames" in capsys.readouterr().err
    assert not Path(out).exists()


def test_tight_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = checkpoint(tmp_path / "run", "model.projector.type=glm")
    assert run(["export", str(source), str(tmp_path / "out")]) == 0
    assert "trained with encoder.padding=tight" in capsys.readouterr().err
