"""Exactly the parameters of the stage's row learn, in every respect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.train.helpers import LR, NO_DECAY, batch_of, run, settings, tiny, trainer_of, utterances
from tiny_audio.errors import CheckpointError, ConfigError
from tiny_audio.train.build import train
from tiny_audio.train.stages import (
    PARTS,
    check_stage,
    checkpoint_decoder,
    parameter_groups,
    part_of,
)

ROWS = [["projector"], ["lora"], ["projector", "lora"], ["projector", "decoder"]]


@pytest.mark.parametrize("learns", ROWS, ids="+".join)
def test_only_the_stage_has_gradients_and_optimizer_state(learns: list[str]) -> None:
    model = tiny(learns)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=LR, weight_decay=NO_DECAY))
    model.loss(batch_of(model, utterances()[:3])).total.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        learning = part_of(name) in learns
        assert parameter.requires_grad == learning, name
        assert (parameter.grad is not None) == learning, name
        assert (parameter in optimizer.state) == learning, name


@pytest.mark.parametrize("learns", ROWS, ids="+".join)
def test_frozen_parts_are_in_eval_mode(learns: list[str]) -> None:
    model = tiny(learns)
    assert model.training
    assert not any(module.training for module in model.encoder.modules())
    for name, module in model.named_modules():
        part = part_of(f"{name}.")
        if part in PARTS:
            assert module.training == (part in learns), name


def test_adapters_drop_out_and_the_frozen_decoder_around_them_does_not() -> None:
    model = tiny(["lora"])
    dropouts = [m for n, m in model.named_modules() if n.endswith("lora_dropout.default")]
    assert dropouts
    assert all(m.training for m in dropouts)
    assert not model.projector.training


def test_what_learns_is_kept_in_float32() -> None:
    model = tiny(["projector", "decoder"])
    model.decoder.to(torch.bfloat16)
    from tiny_audio.train.stages import apply_learns

    apply_learns(model, ["projector", "decoder"])
    assert all(p.dtype == torch.float32 for p in model.decoder.parameters())


def test_recomputed_layers_change_no_update(tmp_path: Path) -> None:
    moved = []
    for recomputes in (False, True):
        model = tiny(["projector"])
        runs = 0

        def count(*_: object) -> None:
            nonlocal runs
            runs += 1

        model.causal_lm.base_model.layers[0].self_attn.register_forward_hook(count)
        if recomputes:
            checkpoint_decoder(model.causal_lm)
        batch = batch_of(model, utterances()[:2])
        trainer_of(model, ["projector"], [batch], tmp_path / str(recomputes)).run()
        assert runs == (2 if recomputes else 1)
        inside = model.causal_lm.base_model.layers[0]
        assert inside.training == recomputes
        assert not inside.self_attn.training
        moved.append([p.detach().clone() for p in model.projector.parameters()])
    for plain, recomputed in zip(*moved, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_later_stage_needs_a_start() -> None:
    for learns, needs in ((["lora"], False), (["projector", "lora"], True)):
        with pytest.raises(ConfigError, match=r"model\.init_from=DIR"):
            check_stage(learns, requires_init=needs, init_from=None)
        check_stage(learns, requires_init=needs, init_from="somewhere")
    check_stage(["projector", "lora"], requires_init=False, init_from=None)  # mosa and moe
    for learns in ([], ["encoder"]):
        with pytest.raises(ConfigError, match=r"training\.learns"):
            check_stage(learns, requires_init=False, init_from=None)


@pytest.mark.parametrize("experiment", ["mlp_lora", "mlp_fine_tune"])
def test_later_stages_of_the_package_refuse_to_start_from_nothing(
    experiment: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="stage 2 and 3 start from a trained projector"):
        train(settings(data, tmp_path / "run", f"+experiments={experiment}"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_three_stages_hand_their_weights_on(data: Path, tmp_path: Path) -> None:
    short = ("training.max_steps=2", "training.eval_steps=0", "training.eval_utterances=2")
    one = run(data, tmp_path / "1", *short)
    assert one.last is not None
    begin = f"model.init_from={one.last}"
    two = run(data, tmp_path / "2", *short, "+experiments=mlp_lora", begin)
    assert two.last is not None
    assert two.steps == 2
    for name, value in weights(one.last).items():  # the projector rested
        assert torch.equal(value, weights(two.last)[name]), name
    three = run(
        data, tmp_path / "3", *short, "+experiments=mlp_fine_tune", f"model.init_from={two.last}"
    )
    assert three.last is not None
    assert any(not torch.equal(v, weights(three.last)[n]) for n, v in weights(one.last).items())
    assert (three.last / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("model.projector.type=mosa", "projector.type"),
        ("model.projector.mlp.hidden=64", "projector.sizes"),
        ("model.decoder.instruction='Write down: '", "decoder.instruction"),
    ],
)
def test_a_start_from_another_model_is_refused_by_field(
    change: str, field: str, data: Path, tmp_path: Path
) -> None:
    short = ("training.max_steps=1", "training.eval_steps=0", "training.eval_utterances=1")
    one = run(data, tmp_path / "1", *short)
    with pytest.raises(CheckpointError, match=field):
        run(data, tmp_path / "2", *short, f"model.init_from={one.last}", change)
