"""Reading an audio tower out of checkpoints that hold more than it, in every layout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from tests.model.helpers import CPU, WHISPER
from tiny_audio.errors import ModelError
from tiny_audio.model.encoder import AudioEncoder, load_encoder

AUDIO = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_mel_bins": 80,
}
TEXT = {
    "model_type": "llama",
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}


def load(folder: Path, dtype: torch.dtype = torch.float32) -> AudioEncoder:
    options = {"padding": "native", "attn_implementation": "sdpa", "dtype": dtype, "device": CPU}
    return load_encoder(str(folder), revision=None, **options)


@pytest.fixture(scope="module")
def glm() -> GlmAsrForConditionalGeneration:
    torch.manual_seed(0)
    return GlmAsrForConditionalGeneration(GlmAsrConfig(audio_config=AUDIO, text_config=TEXT)).eval()


def renest(folder: Path, nested: bool) -> None:
    """Rewrite a checkpoint so that its tensors lie under ``model.`` or at the top level."""
    file = folder / "model.safetensors"
    plain = {key.removeprefix("model."): value for key, value in load_file(file).items()}
    named = {f"model.{k}" if nested and k != "lm_head.weight" else k: v for k, v in plain.items()}
    assert any(k.startswith("model.audio_tower." if nested else "audio_tower.") for k in named)
    save_file(named, file, metadata={"format": "pt"})


@pytest.mark.parametrize("nested", [False, True], ids=["top", "under-model"])
@pytest.mark.parametrize("shard", [None, "20KB"], ids=["one-file", "shards"])
def test_glm_tower_gives_equal_outputs(glm, tmp_path, nested, shard):
    glm.save_pretrained(tmp_path, **({"max_shard_size": shard} if shard else {}))
    if shard is None:
        renest(tmp_path, nested)
    else:
        assert (tmp_path / "model.safetensors.index.json").is_file()
    encoder = load(tmp_path)
    mel = torch.randn(2, 80, 60)
    frames, _ = encoder(mel, torch.tensor([60, 60]))
    with torch.no_grad():
        assert torch.equal(frames, glm.model.audio_tower(mel).last_hidden_state)


def test_whisper_half_gives_equal_outputs(tmp_path: Path) -> None:
    values = {k: v for k, v in WHISPER.items() if k != "model_type"}
    whole = WhisperForConditionalGeneration(
        WhisperConfig(**values, decoder_layers=1, decoder_attention_heads=4)
    ).eval()
    whole.save_pretrained(tmp_path)
    mel = torch.randn(1, 80, 3000)
    frames, _ = load(tmp_path)(mel, torch.tensor([3000]))
    with torch.no_grad():
        assert torch.allclose(frames, whole.model.encoder(mel).last_hidden_state, atol=1e-5)


MEASURE = """
import resource, sys, torch
from tiny_audio.model.encoder import load_encoder
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_encoder(sys.argv[1], revision=None, padding="tight", attn_implementation="sdpa",
             dtype=torch.float32, device=torch.device("cpu"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_stays_near_the_towers_own_size(tmp_path: Path) -> None:
    text = {**TEXT, "hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 60_000}
    text["num_hidden_layers"] = 4
    audio = {**AUDIO, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4}
    whole = GlmAsrForConditionalGeneration(GlmAsrConfig(audio_config=audio, text_config=text))
    tower = sum(p.numel() * 4 for p in whole.model.audio_tower.parameters())
    everything = sum(p.numel() * 4 for p in whole.parameters())
    whole.save_pretrained(tmp_path)
    del whole
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    grown = int(run.stdout) * 1024
    assert grown < tower * 2 + 30e6 < everything / 4, (grown, tower, everything)


def test_a_missing_tensor_and_a_damaged_file_are_named(glm, tmp_path):
    glm.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    whole, state = file.read_bytes(), load_file(file)
    del state[next(k for k in state if k.endswith("audio_tower.norm.weight"))]
    save_file(state, file)
    with pytest.raises(ModelError, match=r"the encoder: misses the tensor 'norm\.weight'"):
        load(tmp_path)
    header = int.from_bytes(whole[:8], "little")
    for damaged in (whole[: 8 + header + 100], b"<html>not found</html>" * 10):
        file.write_bytes(damaged)
        with pytest.raises(ModelError, match="damaged or no safetensors file"):
            load(tmp_path)


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no file 'config\.json'"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "wav2vec2"}))
    with pytest.raises(ModelError, match="'wav2vec2' is not glmasr or whisper"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "glmasr"}))
    save_file({"lm_head.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="no tensor named 'audio_tower"):
        load(tmp_path)


def test_rotary_frequencies_stay_in_fp32(tmp_path, glm):
    glm.save_pretrained(tmp_path)
    encoder = load(tmp_path, torch.bfloat16)
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}
    expected = glm.model.audio_tower.rotary_emb.inv_freq
    assert torch.equal(encoder.tower.rotary_emb.inv_freq, expected)
