"""A resumed run equals one that was never interrupted, number for number."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file

from tests.model.helpers import write_former_names
from tests.train.helpers import FLAT, RESUME, rows, run, untimed
from tiny_audio.errors import CheckpointError, ConfigError
from tiny_audio.train.checkpoints import restore_rng, rng_state

LONG = (
    "training.learns=[projector,lora]",
    "model.projector.type=moe",  # its router draws random numbers in training
    "model.lora.lora_dropout=0.1",
    *("training.eval_steps=4", "training.eval_utterances=2", "training.save_total_limit=9"),
    *("training.gradient_accumulation_steps=2", "training.logging_steps=3"),
    *("training.max_steps=10", "training.save_steps=5"),
)


def tensors(folder: Path | None) -> dict[str, torch.Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{file.name}:{k}": v for file in files for k, v in load_file(file).items()}


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(data: Path, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole", *LONG)
    # Step 5 lies between two log lines (3 and 6) and within a pool of the data.
    parts = tmp_path / "parts"
    shutil.copytree(tmp_path / "whole", parts)
    for folder in (parts / "checkpoints").glob("step-*"):
        if folder.name != "step-00000005":
            shutil.rmtree(folder)
    resumed = run(data, parts, *LONG, RESUME)
    assert resumed.steps == whole.steps == 10
    assert untimed(parts) == untimed(tmp_path / "whole")
    expected, found = tensors(whole.last), tensors(resumed.last)
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "copy"))


def test_a_run_goes_on_in_another_folder_at_todays_learning_rate(data, done, tmp_path):
    start = f"training.resume_from_checkpoint={done / 'checkpoints' / 'step-00000002'}"
    changed = (start, "training.learning_rate=0.0123")
    second = run(data, tmp_path / "b", *FLAT, "training.max_steps=4", *changed)
    assert second.steps == 4
    assert [row["step"] for row in rows(tmp_path / "b")] == [1, 2, 3, 4]
    assert [row["lr_projector"] for row in rows(tmp_path / "b")] == [1e-3, 1e-3, 0.0123, 0.0123]
    assert (done / "checkpoints" / "step-00000002").is_dir()


def test_a_run_goes_on_from_a_checkpoint_with_the_former_names(data: Path, copy: Path) -> None:
    write_former_names(copy / "checkpoints" / "step-00000002" / "config.yaml")
    auto = "training.batch_seconds=auto"
    assert run(data, copy, *FLAT, "training.max_steps=3", RESUME, auto).steps == 3


@pytest.mark.slow
def test_what_cannot_go_on_says_why(data: Path, copy: Path, tmp_path: Path) -> None:
    def refused(*settings: str, out: Path = copy) -> str:
        with pytest.raises((CheckpointError, ConfigError)) as caught:
            run(data, out, *FLAT, "training.max_steps=3", *settings)
        return str(caught.value)

    first = copy / "checkpoints" / "step-00000001"
    assert "already holds a run" in refused()
    assert "later checkpoints" in refused(f"training.resume_from_checkpoint={first}")
    assert "no checkpoint in" in refused(RESUME, out=tmp_path / "none")
    assert "learns=['projector']" in refused(RESUME, "training.learns=[projector,lora]")
    assert "other parameters" in refused(RESUME, "training.weight_decay=0.1")
    state = copy / "checkpoints" / "step-00000002" / "training.pt"
    state.write_bytes(state.read_bytes()[:1000])
    assert "damaged or cut short" in refused(RESUME)
    state.unlink()
    assert "model.init_from" in refused(RESUME)


def test_random_states_go_through_a_file_of_plain_values(tmp_path: Path) -> None:
    def draw() -> list[float]:
        own = torch.rand(2, generator=generator)
        return [random.random(), *np.random.rand(2), *torch.rand(2).tolist(), *own.tolist()]

    generator = torch.Generator().manual_seed(7)
    set_seed(3)
    np.random.standard_normal()  # leaves half of a pair behind in the state
    torch.save(rng_state(generator), tmp_path / "rng.pt")
    expected = draw()
    state = torch.load(tmp_path / "rng.pt", weights_only=True)
    restore_rng(state, generator)
    assert draw() == expected
