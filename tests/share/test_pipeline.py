"""transformers' own entrances, with trust_remote_code=True, give what the package itself gives."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

from tests.share.helpers import checkpoint, prompt_logits
from tiny_audio.cli import run
from tiny_audio.errors import AudioError, ConfigError
from tiny_audio.infer.transcribe import load
from tiny_audio.model.projectors import PROJECTORS

TASK = "automatic-speech-recognition"
STAGES: dict[str, dict[str, Any]] = {"lora": {"lora": True}, "decoder": {"decoder": True}}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers keeps copies of remote files."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint that writes something of any sound."""
    return str(checkpoint(tmp_path_factory.mktemp("source") / "run"))


@pytest.fixture(scope="module")
def folder(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for the pipeline."""
    out = tmp_path_factory.mktemp("export") / "model"
    assert run(["export", source, str(out), "--format", "pipeline"]) == 0
    return out


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Three seconds of noise."""
    return np.random.default_rng(1).normal(0, 0.1, 48_000).astype(np.float32)


@pytest.mark.parametrize("kind", [*PROJECTORS, *STAGES])
def test_every_projector_and_stage(kind: str, tmp_path: Path, clip: np.ndarray) -> None:
    stage = STAGES.get(kind, {})
    settings = [] if stage else [f"model.projector.type={kind}"]
    source = checkpoint(tmp_path / "run", *settings, **stage)
    out = tmp_path / "out"
    assert run(["export", str(source), str(out), "--format", "pipeline"]) == 0
    recognise = pipeline(TASK, model=str(out), trust_remote_code=True, device="cpu")
    recogniser = load(str(source), device="cpu")
    assert recognise(clip) == {"text": recogniser.transcribe(clip).text}
    both = (
        prompt_logits(m, torch.from_numpy(clip)) for m in (recognise.model.speech, recogniser.model)
    )
    assert torch.equal(*both)


def test_whatever_holds_a_recording(
    source: str, folder: Path, tmp_path: Path, clip: np.ndarray
) -> None:
    recognise = pipeline(TASK, model=str(folder), trust_remote_code=True, device="cpu")
    soundfile.write(tmp_path / "a.wav", clip, 16_000, subtype="FLOAT")
    encoded = (tmp_path / "a.wav").read_bytes()
    expected = recognise(clip)
    assert expected["text"] == load(source, device="cpu").transcribe(clip).text
    same = [str(tmp_path / "a.wav"), encoded, {"array": clip, "sampling_rate": 16_000}]
    same += [{"raw": clip, "sampling_rate": 16_000}, {"bytes": encoded, "path": None}]
    assert [recognise(one) for one in same] == [expected] * len(same)
    assert recognise(same, batch_size=2) == [expected] * len(same)
    assert next(recognise(iter(same))) == expected
    double = {"raw": np.repeat(clip, 2), "sampling_rate": 32_000}
    assert isinstance(recognise(double)["text"], str)
    with pytest.raises(AudioError, match="no such file"):
        recognise("none.wav")
    with pytest.raises(ConfigError, match="temperature"):
        recognise(clip, generate_kwargs={"temperature": 2.0})


def test_times_and_pieces(source: str, folder: Path, clip: np.ndarray) -> None:
    recognise = pipeline(TASK, model=str(folder), trust_remote_code=True, device="cpu")
    recogniser = load(source, device="cpu")
    words = recogniser.transcribe(clip, word_timestamps=True).segments
    found = recognise(clip, return_timestamps="word")
    expected = [(w.text, (w.start, w.end)) for segment in words for w in segment.words]
    assert [(one["text"], one["timestamp"]) for one in found["chunks"]] == expected
    assert expected
    long = np.tile(clip, 4)
    pieces = recognise(long, chunk_length_s=2, return_timestamps=True)["chunks"]
    assert len(pieces) >= 6
    assert all(one["timestamp"][1] - one["timestamp"][0] <= 2 for one in pieces)
    assert pieces[-1]["timestamp"][1] == 12


def test_the_auto_classes(source: str, folder: Path, clip: np.ndarray) -> None:
    """Logits, loss and generation through AutoModel and AutoProcessor alone."""
    trusted: dict[str, Any] = {"trust_remote_code": True}
    assert AutoConfig.from_pretrained(folder, **trusted).model_type == "tiny_audio"
    model = AutoModel.from_pretrained(folder, **trusted)
    processor = AutoProcessor.from_pretrained(folder, **trusted)
    inputs = processor([clip, clip[:20_000]], sampling_rate=16_000)
    ids = model.generate(**inputs)
    recogniser = load(source, device="cpu")
    texts = [one.text for one in recogniser.transcribe([clip, clip[:20_000]])]
    assert processor.batch_decode(ids) == texts
    one = processor(clip)
    with torch.no_grad():
        logits = model(**one).logits[0]
    expected = prompt_logits(recogniser.model, torch.from_numpy(clip))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    loss = model(**processor([clip], text=["a few words"])).loss
    assert 0 < loss.item() < 30


def test_without_the_package_one_line_says_how_to_get_it(folder: Path) -> None:
    """And never by the bare name from an index."""
    code = (
        "import sys; sys.modules['tiny_audio'] = None; from transformers import AutoModel; "
        f"AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "installed from a clone of its repository with `pip install .`" in last
    assert "pip install tiny" not in done.stderr
