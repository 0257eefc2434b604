"""Merging adapters: the same logits from a decoder without PEFT, in a checkpoint of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.model.helpers import make_batch, model_config, noise, tiny_model, with_lora
from tiny_audio.config import Config, GenerationConfig
from tiny_audio.errors import CheckpointError
from tiny_audio.model.batch import IGNORE, label_positions
from tiny_audio.model.checkpoint import (
    load_checkpoint,
    merge_command,
    read_info,
    save_checkpoint,
)
from tiny_audio.model.speech import SpeechModel


@pytest.fixture
def adapted(tmp_path: Path) -> tuple[SpeechModel, Path]:
    """A tiny model whose adapters do something, and its checkpoint."""
    torch.manual_seed(0)
    model = with_lora(tiny_model(), "all-linear", std=0.1, r=4)
    folder = tmp_path / "adapted"
    config = Config(model=model_config(), output_dir="unused")
    save_checkpoint(model.eval(), folder, config=config, metadata={"step": 7})
    return model, folder


def logits(model: SpeechModel) -> torch.Tensor:
    batch = make_batch(model, noise([1.0, 0.6]), ["ab", "c"])
    with torch.no_grad():
        prefill = model.prefill(batch)
        places = label_positions(batch.input_ids.where(batch.attention_mask.bool(), IGNORE))
        return model.label_logits(prefill, places)


def test_merged_checkpoint_has_equal_logits_and_no_adapters(adapted, tmp_path, capsys):
    model, folder = adapted
    merge_command(str(folder), str(tmp_path / "merged"), "cpu")
    said = " ".join(capsys.readouterr().out.split())
    assert "Merged 14 adapters" in said  # 7 linear layers in each of 2 decoder layers
    info = read_info(tmp_path / "merged")
    assert info.parts == ["projector", "decoder"]
    assert info.metadata == {"step": 7, "merged_from": "adapted"}
    alone = load_checkpoint(tmp_path / "merged", device="cpu")
    assert not any(".lora_" in name for name in alone.state_dict())
    torch.testing.assert_close(logits(alone), logits(model), atol=1e-4, rtol=0)
    plain = tiny_model()
    plain.projector.load_state_dict(model.projector.state_dict())
    assert (logits(plain) - logits(model)).abs().max() > 1e-2  # the adapters did matter
    batch = make_batch(model, noise([1.0, 0.6]))
    texts = [[h.text for h in m.generate(batch, GenerationConfig())] for m in (alone, model)]
    assert texts[0] == texts[1]


def test_merging_nothing_or_onto_something_is_an_error(adapted, tmp_path):
    __, folder = adapted
    with pytest.raises(CheckpointError, match="exists"):
        merge_command(str(folder), str(folder), "cpu")
    save_checkpoint(
        tiny_model(),
        tmp_path / "plain",
        config=Config(model=model_config(), output_dir="unused"),
        metadata={},
    )
    with pytest.raises(CheckpointError, match="no adapters to merge"):
        merge_command(str(tmp_path / "plain"), str(tmp_path / "again"), "cpu")
    assert not (tmp_path / "again").exists()
