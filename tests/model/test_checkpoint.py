"""Checkpoints: whole or not there, strict to read, and clear about what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from tests.model.helpers import (
    make_batch,
    model_config,
    noise,
    tiny_model,
    with_lora,
    write_former_names,
)
from tiny_audio.config import RENAMED, Config, GenerationConfig
from tiny_audio.errors import CheckpointError
from tiny_audio.model.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    load_weights,
    merge_command,
    read_config,
    read_info,
    resolve_model,
    save_checkpoint,
)
from tiny_audio.model.speech import SpeechModel

CLIPS = noise([1.2, 0.6])


def trained(seed: int = 1, **changes: object) -> SpeechModel:
    """A tiny pair whose projector is not the one that a seed would give."""
    model = tiny_model(**changes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.projector.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


def save(model: SpeechModel, folder: Path) -> Path:
    config = Config(model=model_config(), output_dir="runs/x")
    save_checkpoint(model, folder, config=config, metadata={"step": 3})
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(trained(), tmp_path / "checkpoint")


def texts(model: SpeechModel) -> list[list[int]]:
    hypotheses = model.generate(make_batch(model, CLIPS), GenerationConfig())
    return [h.token_ids for h in hypotheses]


def test_round_trip_gives_the_same_weights_and_texts(saved: Path) -> None:
    model, loaded = trained(), load_checkpoint(saved, device="cpu")
    for (name, mine), theirs in zip(
        model.projector.state_dict().items(), loaded.projector.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name
    assert texts(loaded) == texts(model)
    assert read_info(saved).metadata["step"] == 3


def test_it_holds_what_the_architecture_says_and_no_frozen_weights(saved: Path) -> None:
    assert sorted(load_file(saved / "model.safetensors")) == [
        "projector.linear_1.weight",
        "projector.linear_2.weight",
        "projector.norm.weight",
        "projector.norm_2.weight",
    ]
    names = {path.name for path in saved.iterdir()}
    assert {"tiny_audio.json", "config.yaml", "tokenizer.json", "preprocessor_config.json"} <= names
    assert sum(path.stat().st_size for path in saved.iterdir()) < 400_000


def test_adapters_and_a_changed_decoder_travel_along(tmp_path: Path) -> None:
    model = trained()
    with torch.no_grad():
        model.causal_lm.base_model.norm.weight.mul_(1.5)
    model.decoder_changed = True
    with_lora(model, "q_proj", "down_proj", std=0.2)
    folder = save(model, tmp_path / "both")
    assert read_info(folder).parts == ["projector", "lora", "decoder"]
    loaded = load_checkpoint(folder, device="cpu")
    batch = make_batch(model, CLIPS, ["a", "b"])
    assert torch.isclose(model.loss(batch).total, loaded.loss(batch).total)
    assert texts(loaded) == texts(model)


def with_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    state = load_file(folder / "model.safetensors")
    state |= {f"projector.{name}": value for name, value in changes.items()}
    whole = {name: value for name, value in state.items() if value is not None}
    save_file(whole, folder / "model.safetensors")


def cut(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])


def rewrite(folder: Path, file: str, old: str, new: str) -> None:
    (folder / file).write_text((folder / file).read_text().replace(old, new))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda f: (f / "tiny_audio.json").unlink(), "is no checkpoint"),
        (lambda f: (f / "config.yaml").unlink(), "has no config.yaml"),
        (lambda f: cut(f, 0), "damaged or cut short"),
        (lambda f: cut(f, 7), "damaged or cut short"),
        (lambda f: cut(f, 100), "damaged or cut short"),
        (lambda f: cut(f, -10), "damaged or cut short"),
        (lambda f: (f / "tiny_audio.json").write_text('{"format": 1, "iden'), "is damaged"),
        (lambda f: rewrite(f, "tiny_audio.json", '"format": 1', '"format": 99'), "update tiny-aud"),
        (lambda f: rewrite(f, "config.yaml", "max_steps:", "max_stops:"), "max_stops"),
        (lambda f: with_tensors(f, **{"norm.weight": None}), "misses the tensor 'projector.norm.w"),
        (lambda f: with_tensors(f, more=torch.ones(1)), "unexpected tensor 'projector.more'"),
        (lambda f: with_tensors(f, **{"norm.weight": torch.ones(3)}), r"\[3\], this .* \[128\]"),
    ],
)
def test_what_is_wrong_is_named(saved: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(saved)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved, device="cpu")


def test_another_pair_is_refused_by_the_field_that_differs(saved: Path) -> None:
    other = model_config()
    other.decoder.architecture["hidden_size"] = 48
    with pytest.raises(CheckpointError, match=r"decoder\.fingerprint="):
        load_weights(tiny_model(decoder=other.decoder), saved)
    wide = model_config()
    wide.projector.mlp.hidden = 64
    with pytest.raises(CheckpointError, match=r"projector\.sizes="):
        load_weights(tiny_model(projector=wide.projector), saved)
    wide.projector.type = "mosa"
    with pytest.raises(CheckpointError, match=r"projector\.type="):
        load_weights(tiny_model(projector=wide.projector), saved)


def test_a_config_with_the_former_names_is_read_as_one_with_todays(tmp_path: Path) -> None:
    config = OmegaConf.structured(Config(model=model_config(), output_dir="x"))
    for number, name in enumerate(RENAMED.values(), 1):  # no two values alike, no defaults
        match OmegaConf.select(config, name):
            case bool(value):
                OmegaConf.update(config, name, not value)
            case int(value) | float(value):
                OmegaConf.update(config, name, value + number)
    OmegaConf.save(config, tmp_path / "config.yaml")
    today = read_config(tmp_path)
    assert today == OmegaConf.to_object(config)
    write_former_names(tmp_path / "config.yaml")
    assert read_config(tmp_path) == today


@pytest.mark.parametrize("former", ["packed", "eager"])
def test_a_config_with_an_attention_that_is_no_more_loads(saved: Path, former: str) -> None:
    rewrite(saved, "config.yaml", "attn_implementation: sdpa", f"attn_implementation: {former}")
    assert read_config(saved).model.attn_implementation == "sdpa"


def test_a_failed_write_leaves_the_old_one_and_no_litter(saved: Path) -> None:
    before = texts(load_checkpoint(saved, device="cpu"))

    def full_disk(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(
            trained(seed=2),
            saved,
            config=Config(model=model_config(), output_dir="x"),
            metadata={},
            extra=full_disk,
        )
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint"]
    assert texts(load_checkpoint(saved, device="cpu")) == before


def test_a_run_stands_for_its_best_checkpoint_and_a_checkpoint_for_itself(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    save(trained(), folder / "step-1")
    save(trained(), folder / "step-2")
    for best, found in ((None, "step-2"), ("step-1", "step-1")):
        (folder / "index.json").write_text(json.dumps({"best": best, "last": "step-2"}))
        assert find_checkpoint(str(tmp_path)) == folder / found
    assert resolve_model(str(tmp_path), device="cpu").audio_tokens(16_000) == 12
    assert find_checkpoint(str(folder / "step-2")) == folder / "step-2"
    with pytest.raises(CheckpointError, match="neither a checkpoint"):
        find_checkpoint(str(folder))


def logits(model: SpeechModel) -> torch.Tensor:
    batch = make_batch(model, noise([1.0, 0.6]), ["ab", "c"])
    with torch.no_grad():
        embeds, mask, positions = model.prefill(batch)
        out = model.causal_lm(inputs_embeds=embeds, attention_mask=mask, position_ids=positions)
    return out.logits[mask.bool()]


def test_merged_adapters_give_the_same_logits_and_are_gone(tmp_path, capsys):
    torch.manual_seed(0)
    plain = trained()
    before = logits(plain)
    model = with_lora(plain, "all-linear", std=0.1, r=4).eval()
    assert (before - logits(model)).abs().max() > 1e-2  # the adapters do matter
    save(model, tmp_path / "adapted")
    merge_command(str(tmp_path / "adapted"), str(tmp_path / "merged"), "cpu")
    said = " ".join(capsys.readouterr().out.split())
    assert "Merged 14 adapters" in said  # 7 linear layers in each of 2 decoder layers
    info = read_info(tmp_path / "merged")
    assert info.parts == ["projector", "decoder"]
    assert info.metadata == {"step": 3, "merged_from": "adapted"}
    alone = load_checkpoint(tmp_path / "merged", device="cpu")
    assert not any(".lora_" in name for name in alone.state_dict())
    torch.testing.assert_close(logits(alone), logits(model), atol=1e-4, rtol=0)
    assert texts(alone) == texts(model)
    with pytest.raises(CheckpointError, match="exists"):
        merge_command(str(tmp_path / "adapted"), str(tmp_path / "merged"), "cpu")
    with pytest.raises(CheckpointError, match="no adapters to merge"):
        merge_command(str(tmp_path / "merged"), str(tmp_path / "again"), "cpu")
    assert not (tmp_path / "again").exists()


SAVE_FOR_EVER = """
import sys
from pathlib import Path
from tests.model.test_checkpoint import save, trained
model, folder = trained(), Path(sys.argv[1])
step = 0
while True:
    save(model, folder / f"step-{step:05d}")
    step += 1
    print(step, flush=True)
"""


@pytest.mark.slow
def test_sigkill_during_saving_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    for attempt, delay in enumerate([0.0, 0.013, 0.029]):
        folder = tmp_path / str(attempt)
        with subprocess.Popen(
            [sys.executable, "-c", SAVE_FOR_EVER, str(folder)], stdout=subprocess.PIPE
        ) as process:
            for _ in range(3):
                process.stdout.readline()
            time.sleep(delay)
            os.kill(process.pid, signal.SIGKILL)
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
        assert len(found) >= 3
        for checkpoint in found[-2:]:
            load_checkpoint(checkpoint, device="cpu")
