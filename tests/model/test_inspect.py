"""The look inside: numbers that match the model, warnings where they are due, a picture."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.model.helpers import CPU, model_config, noise, with_lora
from tiny_audio.config import Config
from tiny_audio.errors import AudioError, CheckpointError
from tiny_audio.model.build import build_model
from tiny_audio.model.checkpoint import save_checkpoint
from tiny_audio.model.inspect import (
    describe_command,
    lora_command,
    parameter_counts,
    parts,
    projector_command,
    run_projector,
)
from tiny_audio.model.speech import SpeechModel


def build(kind: str, folder: Path | None = None, *, lora: bool = False) -> SpeechModel:
    config = model_config()
    config.projector.type = kind
    model = build_model(config, device=CPU)
    if lora:
        with_lora(model, "q_proj")
    if folder is not None:
        save_checkpoint(model, folder, config=Config(model=config, output_dir="-"), metadata={})
    return model


def test_the_big_pair_is_described_without_weights(capsys):
    describe_command(["model=glm_qwen3"])
    shown = capsys.readouterr().out
    for expected in ("12,585,984", "596,049,920", "qformer"):
        assert expected in shown
    assert "12.5 a second" in shown  # 100 mel frames, 50 encoder frames, stacked by 4


def test_a_checkpoint_is_described_and_its_projector_measured_and_drawn(tmp_path, capsys):
    build("moe", tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="has no adapters"):
        lora_command(str(tmp_path / "checkpoint"))
    describe_command([str(tmp_path / "checkpoint")])
    assert "GlmAsrEncoder" in capsys.readouterr().out
    picture = tmp_path / "new" / "picture.png"
    projector_command(str(tmp_path / "checkpoint"), str(picture))
    printed = " ".join(capsys.readouterr().out.split())
    for word in ("output_rms", "embedding_rms", "rising tone", "share_0"):
        assert word in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16_000)
    with pytest.raises(AudioError, match=r"short\.wav: is too short"):
        projector_command(str(tmp_path / "checkpoint"), None, [str(tmp_path / "short.wav")])


def test_only_what_learns_is_charged_for_gradient_and_optimizer():
    rows = parts(build("mlp", lora=True), ["projector"])
    held = {name: held / count for name, _, count, held in rows}
    assert held == {"encoder": 4, "projector": 16, "decoder": 4, "lora": 4}


def test_numbers_are_those_of_the_real_tokens():
    model, clips = build("mlp"), noise([1.0, 2.0])
    tokens, stats = run_projector(model, clips)
    with torch.no_grad():
        alone = [model.embed_audio(c[None], torch.tensor([len(c)]))[0][0] for c in clips]
    torch.testing.assert_close(tokens, torch.cat(alone), atol=1e-5, rtol=0)
    assert stats["output_rms"] == pytest.approx(tokens.square().mean().sqrt().item(), rel=1e-4)


def test_changes_of_adapters_are_those_of_the_product(tmp_path, capsys):
    model = build("mlp", lora=True)
    layer = model.causal_lm.base_model.layers[1].self_attn.q_proj
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
        update = 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    config = Config(model=model_config(), output_dir="-")
    save_checkpoint(model, tmp_path / "adapted", config=config, metadata={})
    lora_command(str(tmp_path / "adapted"))
    shown = [line.split("│") for line in capsys.readouterr().out.splitlines() if "q_proj" in line]
    norm = update.norm().item()
    share = norm / layer.base_layer.weight.norm().item()
    assert [[cell.strip() for cell in row[1:4]] for row in shown] == [
        ["model.layers.0.self_attn.q_proj", "0", "0.00%"],
        ["model.layers.1.self_attn.q_proj", f"{norm:.3g}", f"{share:.2%}"],
    ]


def test_parameters_of_the_big_pair_are_those_in_the_readme():
    millions = {kind: round(count / 1e6, 1) for kind, count in parameter_counts().items()}
    assert millions == {"mlp": 12.6, "mosa": 53.0, "moe": 62.9, "qformer": 35.7, "glm": 12.6}
