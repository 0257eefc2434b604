"""Exactly the parameters of the stage's row learn, at its rate, in every respect."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.lr_scheduler import CosineAnnealingLR

from tests.train.helpers import batch_of, run, settings, tiny, trainer_of, utterances
from tiny_audio.config import TrainingConfig
from tiny_audio.errors import CheckpointError, ConfigError
from tiny_audio.train.build import train
from tiny_audio.train.stages import (
    PARTS,
    apply_learns,
    check_stage,
    checkpoint_decoder,
    lr_multiplier,
    parameter_groups,
    part_of,
)

ROWS = [["projector"], ["lora"], ["projector", "lora"], ["projector", "decoder"]]
SHORT = ("training.max_steps=2", "training.eval_steps=0")


@pytest.mark.parametrize("learns", ROWS, ids="+".join)
def test_only_the_stage_has_gradients_and_optimizer_state(learns: list[str]) -> None:
    model = tiny(learns)
    optimizer = torch.optim.AdamW(parameter_groups(model, TrainingConfig()))
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


def test_what_learns_is_kept_in_float32() -> None:
    model = tiny(["projector", "decoder"])
    model.decoder.to(torch.bfloat16)
    apply_learns(model, ["projector", "decoder"])
    assert all(p.dtype == torch.float32 for p in model.decoder.parameters())


def test_recomputed_layers_change_no_update(tmp_path: Path) -> None:
    moved = []
    for recomputes in (False, True):
        model, runs = tiny(["projector"]), []
        layer = model.causal_lm.base_model.layers[0]
        layer.self_attn.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        if recomputes:
            checkpoint_decoder(model.causal_lm)
        batch = batch_of(model, utterances()[:2])
        trainer_of(model, ["projector"], [batch], tmp_path / str(recomputes)).run()
        assert len(runs) == (2 if recomputes else 1)
        assert layer.training == recomputes
        assert not layer.self_attn.training
        moved.append([p.detach().clone() for p in model.projector.parameters()])
    for plain, recomputed in zip(*moved, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_later_stage_needs_a_start(data: Path, tmp_path: Path) -> None:
    for learns, needs in ((["lora"], False), (["projector", "lora"], True)):
        with pytest.raises(ConfigError, match=r"model\.init_from=DIR"):
            check_stage(learns, requires_init=needs, init_from=None)
        check_stage(learns, requires_init=needs, init_from="somewhere")
    check_stage(["projector", "lora"], requires_init=False, init_from=None)  # mosa and moe
    for learns in ([], ["encoder"]):
        with pytest.raises(ConfigError, match=r"training\.learns"):
            check_stage(learns, requires_init=False, init_from=None)
    for experiment in ("mlp_lora", "mlp_fine_tune"):
        with pytest.raises(ConfigError, match="stage 2 and 3 start from a trained projector"):
            train(settings(data, tmp_path, f"+experiments={experiment}"))


def weights(folder: Path | None) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_three_stages_hand_their_weights_on(data: Path, done: Path, tmp_path: Path) -> None:
    one = done / "checkpoints" / "step-00000002"
    two = run(data, tmp_path / "2", *SHORT, "+experiments=mlp_lora", f"model.init_from={one}").last
    for name, value in weights(one).items():  # the projector rested
        assert torch.equal(value, weights(two)[name]), name
    last = run(
        data, tmp_path / "3", *SHORT, "+experiments=mlp_fine_tune", f"model.init_from={two}"
    ).last
    assert any(not torch.equal(v, weights(last)[n]) for n, v in weights(one).items())
    assert (last / "adapter" / "adapter_model.safetensors").is_file()

    other = "model.decoder.instruction='Write down: '"
    with pytest.raises(CheckpointError, match=r"decoder\.instruction"):
        run(data, tmp_path / "4", *SHORT, f"model.init_from={one}", other)


def multipliers(warmup: int, steps: int, ratio: float) -> list[float]:
    settings = TrainingConfig(warmup_steps=warmup, max_steps=steps, min_lr_rate=ratio)
    return [lr_multiplier(i, settings) for i in range(steps)]


def test_the_rate_rises_linearly_and_falls_to_the_lowest_at_the_last_update() -> None:
    rates = multipliers(10, 100, 0.1)
    assert [rates[i] for i in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)


def test_cosine_equals_torchs_own() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = CosineAnnealingLR(optimizer, T_max=49, eta_min=0.1)
    for rate in multipliers(0, 50, 0.1):
        assert rate == pytest.approx(scheduler.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_a_short_run_gets_a_short_warmup() -> None:
    assert multipliers(500, 10_000, 0.1)[499] == 1.0 > multipliers(500, 10_000, 0.1)[498]
    assert multipliers(500, 200, 0.1) == multipliers(20, 200, 0.1)
    assert multipliers(500, 5, 0.1) == multipliers(0, 5, 0.1)
    assert multipliers(0, 1, 0.1) == [1.0]


def test_each_part_has_its_rate_and_norms_do_not_decay() -> None:
    model = tiny(["projector", "lora"])
    rates = {"learning_rate": 1e-3, "lora_learning_rate": 2e-4, "decoder_learning_rate": 0.0}
    groups = parameter_groups(model, TrainingConfig(**rates, weight_decay=0.1))
    found = {(group["part"], group["weight_decay"]): group["params"] for group in groups}
    assert set(found) == {("projector", 0.1), ("projector", 0.0), ("lora", 0.0)}
    assert all(p.ndim > 1 for p in found["projector", 0.1])
    assert all(p.ndim == 1 for p in found["projector", 0.0])
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert {g["part"]: g["peak_lr"] for g in groups} == {"projector": 1e-3, "lora": 2e-4}
    with pytest.raises(ConfigError, match=r"training\.lora_learning_rate=0\.0: must be above 0"):
        parameter_groups(model, TrainingConfig(lora_learning_rate=0.0))
