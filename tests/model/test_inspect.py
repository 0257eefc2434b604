"""The look inside: numbers that match the model, warnings where they are due, a picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.model.helpers import model_config, noise
from tiny_audio.config import Config
from tiny_audio.errors import AudioError, CheckpointError
from tiny_audio.model.build import build_model
from tiny_audio.model.checkpoint import save_checkpoint
from tiny_audio.model.inspect import (
    inspect_projector,
    lora_command,
    lora_summary,
    parameter_counts,
    probe_clips,
    projector_command,
    projector_warnings,
)
from tiny_audio.model.lora import add_lora, lora_report
from tiny_audio.model.speech import SpeechModel

KINDS = ("mlp", "mosa", "moe", "qformer")


def build(kind: str, folder: Path | None = None, *, lora: bool = False) -> SpeechModel:
    config = model_config()
    config.projector.type = kind
    model = build_model(config, device=torch.device("cpu"))
    if lora:
        model.decoder = add_lora(
            model.decoder, r=2, lora_alpha=4, lora_dropout=0.0, target_modules=["q_proj"]
        )
    if folder is not None:
        save_checkpoint(model, folder, config=Config(model=config, output_dir="-"), metadata={})
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_command_prints_the_numbers_and_draws_a_picture(kind, tmp_path, capsys):
    build(kind, tmp_path / "checkpoint")
    picture = tmp_path / "new" / "picture.png"
    projector_command(str(tmp_path / "checkpoint"), str(picture))
    printed = capsys.readouterr().out
    for word in ("output_rms", "embedding_rms", "rms of norm", "synthetic"):
        assert word in printed
    assert ("share_0" in printed) == (kind in ("mosa", "moe"))
    assert ("query_similarity" in printed) == (kind == "qformer")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_numbers_are_those_of_the_real_tokens():
    model = build("mlp")
    clips = noise([1.0, 2.0])
    report = inspect_projector(model, clips)
    alone = []
    with torch.no_grad():
        for clip in clips:
            tokens, _ = model.embed_audio(clip[None], torch.tensor([len(clip)]))
            alone.append(tokens[0])
    expected = torch.cat(alone)
    assert len(report.token_rms) == len(expected)
    assert report.stats["output_rms"] == pytest.approx(
        expected.square().mean().sqrt().item(), rel=1e-4
    )
    torch.testing.assert_close(report.first_clip, alone[1], atol=1e-5, rtol=0)
    assert report.warnings == []


def test_clips_without_a_token_are_an_error():
    with pytest.raises(AudioError, match=r"clip 1 has 0\.006 s") as caught:
        inspect_projector(build("mlp"), [torch.zeros(100)])
    assert caught.value.reason == "too_short"


def test_warnings_appear_where_they_are_due():
    good = {"output_rms": 0.03, "dead_experts": 0.0, "query_similarity": 0.1}
    assert projector_warnings(good, 0.03) == []
    assert "RMS" in projector_warnings(good | {"output_rms": 0.31}, 0.03)[0]
    assert "RMS" in projector_warnings(good | {"output_rms": 0.0029}, 0.03)[0]
    assert "2 experts" in projector_warnings(good | {"dead_experts": 2.0}, 0.03)[0]
    assert "alike" in projector_warnings(good | {"query_similarity": 0.99}, 0.03)[0]


def test_probe_is_the_same_each_time_and_audible():
    first, second = probe_clips(), probe_clips()
    assert [len(clip) / 16_000 for clip in first] == [2.0, 4.0, 7.0]
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
        assert a.dtype == torch.float32
        assert 0.01 < a.abs().max() < 1


def test_lora_command_finds_zero_adapters(tmp_path, capsys):
    model = build("mlp", tmp_path / "adapted", lora=True)
    lora_command(str(tmp_path / "adapted"))
    printed = capsys.readouterr().out
    assert "2 adapters of rank 2" in printed
    assert "Zero adapters: 2 of 2" in printed
    assert "no adapter has learned" in printed
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_B" in n).fill_(0.1)
    lines = lora_summary(lora_report(model.decoder))
    assert "Zero adapters: 1 of 2." in lines
    assert lines[-1].endswith("model.layers.1.self_attn.q_proj")


def test_lora_command_without_adapters_is_an_error(tmp_path):
    build("mlp", tmp_path / "plain")
    with pytest.raises(CheckpointError, match="has no adapters"):
        lora_command(str(tmp_path / "plain"))


def test_parameters_of_the_big_pair():
    """By hand: matrices, biases, norms, queries of each projector at 1280 x 4 -> 1024."""
    mlp = 5120 * 2048 + 2048 * 1024
    router = 5120 * 512 + 512 + 512 * 4 + 4
    cross = 2 * (1024 * 1024 + 1280 * 1024) + 4 * 1024 + 2 * 1024
    attention = 4 * 1024 * 1024 + 4 * 1024 + 2 * 1024
    feed_forward = 2 * 1024 * 4096 + 4096 + 1024 + 2 * 1024
    assert parameter_counts() == {
        "mlp": mlp + 2048 + 1024,
        "mosa": 4 * (mlp + 2048 + 1024) + router + 1024,
        "moe": 5 * mlp + 5120 * 4 + 1024,
        "qformer": 2 * (attention + cross + feed_forward)
        + 3 * 1024  # queries
        + 15 * 1280  # places in a window
        + 2 * 1024  # the queries' LayerNorm
        + 1024 * 1024  # final linear
        + 1024,
    }
