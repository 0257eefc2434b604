"""A resumed run equals one that was never interrupted, number for number."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from tests.train.helpers import rows, run
from tiny_audio.config import RENAMED
from tiny_audio.errors import CheckpointError, ConfigError
from tiny_audio.train.checkpoints import restore_rng, rng_state, seed_everything

TIMING = ("audio_seconds_per_second", "seconds_per_step", "memory_gb")
LONG = (
    "training.learns=[projector,lora]",
    "model.projector.type=moe",  # its router draws random numbers in training
    "model.lora.lora_dropout=0.1",
    "training.eval_steps=4",
    "training.eval_utterances=2",
    "training.gradient_accumulation_steps=2",
    "training.logging_steps=3",
    "training.save_total_limit=9",
)


def untimed(out: Path) -> list[dict[str, object]]:
    return [
        {k: v for k, v in row.items() if k not in TIMING}
        for kind in ("train", "eval")
        for row in rows(out, kind)
    ]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{file.name}:{k}": v for file in files for k, v in load_file(file).items()}


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(data: Path, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole", *LONG, "training.max_steps=10", "training.save_steps=5")
    # Step 5 lies between two log lines (3 and 6) and within a pool of the data.
    parts = tmp_path / "parts"
    shutil.copytree(tmp_path / "whole", parts)
    checkpoints = parts / "checkpoints"
    for folder in checkpoints.glob("step-*"):
        if folder.name != "step-00000005":
            shutil.rmtree(folder)
    resumed = run(
        data,
        parts,
        *LONG,
        "training.max_steps=10",
        "training.save_steps=5",
        "training.resume_from_checkpoint=last",
    )
    assert resumed.steps == whole.steps == 10
    assert untimed(parts) == untimed(tmp_path / "whole")
    assert whole.last is not None
    assert resumed.last is not None
    expected, found = tensors(whole.last), tensors(resumed.last)
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_a_run_goes_on_in_another_folder_from_a_named_checkpoint(
    data: Path, tmp_path: Path
) -> None:
    short = ("training.eval_steps=0", "training.save_steps=2", "training.warmup_steps=0")
    first = run(data, tmp_path / "a", *short, "training.max_steps=2")
    second = run(
        data,
        tmp_path / "b",
        *short,
        "training.max_steps=4",
        f"training.resume_from_checkpoint={first.last}",
    )
    assert second.steps == 4
    assert [row["step"] for row in rows(tmp_path / "b")] == [1, 2, 3, 4]
    assert first.last is not None
    assert first.last.is_dir()


def test_a_run_goes_on_from_a_checkpoint_with_the_former_names(data: Path, tmp_path: Path) -> None:
    short = ("training.eval_steps=0", "training.save_steps=2", "training.warmup_steps=0")
    first = run(data, tmp_path / "a", *short, "training.max_steps=2")
    assert first.last is not None
    path = first.last / "config.yaml"
    config = OmegaConf.load(path)
    values = {old: OmegaConf.select(config, new) for old, new in RENAMED.items()}
    for new in RENAMED.values():
        section, _, name = new.rpartition(".")
        OmegaConf.select(config, section).pop(name)
    for old, value in values.items():
        OmegaConf.update(config, old, value)
    config.training.betas = list(config.training.betas.values())
    config.training.race = []  # a setting that is gone
    OmegaConf.save(config, path)
    again = ("training.resume_from_checkpoint=last", "training.batch_seconds=auto")
    assert run(data, tmp_path / "a", *short, "training.max_steps=4", *again).steps == 4


def test_todays_learning_rate_holds_after_a_resume(data: Path, tmp_path: Path) -> None:
    flat = ("training.eval_steps=0", "training.warmup_steps=0", "training.min_lr_rate=1")
    run(data, tmp_path / "a", *flat, "training.max_steps=2")
    again = ("training.resume_from_checkpoint=last", "training.learning_rate=0.0123")
    run(data, tmp_path / "a", *flat, "training.max_steps=3", *again)
    rates = [row["lr_projector"] for row in rows(tmp_path / "a")]
    assert rates == [1e-3, 1e-3, 0.0123]


def test_a_run_is_not_spoilt_by_another_in_its_folder(data: Path, tmp_path: Path) -> None:
    short = ("training.eval_steps=0", "training.save_steps=1", "training.max_steps=2")
    run(data, tmp_path / "a", *short)
    with pytest.raises(ConfigError, match="already holds a run"):
        run(data, tmp_path / "a", *short)
    first = tmp_path / "a" / "checkpoints" / "step-00000001"
    with pytest.raises(ConfigError, match="later checkpoints"):
        run(data, tmp_path / "a", *short, f"training.resume_from_checkpoint={first}")


def test_what_cannot_go_on_says_why(data: Path, tmp_path: Path) -> None:
    short = ("training.eval_steps=0", "training.max_steps=1")
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        run(data, tmp_path / "a", *short, "training.resume_from_checkpoint=last")
    done = run(data, tmp_path / "a", *short)
    last = "training.resume_from_checkpoint=last"
    with pytest.raises(CheckpointError, match=r"learns=\['projector'\]"):
        run(data, tmp_path / "a", *short, last, "training.learns=[projector,lora]")
    assert done.last is not None
    state = done.last / "training.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        run(data, tmp_path / "a", *short, last)
    state.unlink()
    with pytest.raises(CheckpointError, match=r"model\.init_from"):
        run(data, tmp_path / "a", *short, last)


def test_random_states_go_through_a_file_of_plain_values(tmp_path: Path) -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        own = torch.rand(2, generator=generator)
        return [random.random(), *np.random.rand(2), *torch.rand(2).tolist(), *own.tolist()]

    generator = torch.Generator().manual_seed(7)
    seed_everything(3, rank=1)
    np.random.standard_normal()  # leaves half of a pair behind in the state
    torch.save(rng_state({"own": generator}), tmp_path / "rng.pt")
    expected = draw()
    state = torch.load(tmp_path / "rng.pt", weights_only=True)
    restore_rng(state, {"own": generator})
    assert draw() == expected
