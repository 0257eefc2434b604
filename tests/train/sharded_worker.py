"""Run by two processes in test_distributed.py: some updates with FSDP on the CPU, and a resume.

Accelerate offers FSDP on accelerators only, so here PyTorch's own call takes the place of
``Accelerator.prepare``; the rest is the code that trains.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tests.train.helpers import batch_of, tiny, trainer_of, utterances
from tiny_audio.config import TrainingConfig
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.checkpoints import restore_optimizer
from tiny_audio.train.distributed import (
    frozen_modules,
    sum_gradients,
    whole_state,
    whole_weights,
)
from tiny_audio.train.loop import Trainer
from tiny_audio.train.stages import parameter_groups

LEARNS = ["projector", "lora"]
STEPS = 4


def trainer(model: SpeechModel, folder: Path, steps: int, *, sharded: bool) -> Trainer:
    """Each process takes every other utterance; one process alone takes them all."""
    mine = utterances()[dist.get_rank() :: 2] if sharded else utterances()
    once = {"max_steps": steps, "gradient_accumulation_steps": 1}
    made = trainer_of(model, LEARNS, [batch_of(model, mine)] * steps, folder, **once)
    if sharded:
        ignored = {p for frozen in frozen_modules(model) for p in frozen.parameters()}
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)), ignored_params=ignored)
        for name, parameter in model.named_parameters():
            assert isinstance(parameter, DTensor) == parameter.requires_grad, name
    groups = parameter_groups(model, TrainingConfig(lora_learning_rate=1e-3))
    made.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    return made


def sum_what_one_process_alone_has() -> None:
    """As of experts to which the other process sent no token."""
    experts = torch.nn.ParameterList(torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    experts[dist.get_rank()].grad = torch.ones(2)
    sum_gradients(experts, SimpleNamespace(num_processes=2))
    assert [expert.grad.tolist() for expert in experts] == [[1.0, 1.0]] * 2


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    sum_what_one_process_alone_has()
    model = tiny(LEARNS, dropout=False)
    first = trainer(model, folder / f"a{dist.get_rank()}", STEPS // 2, sharded=True)
    first.run()
    state = whole_state(first.optimizer.state_dict())
    with whole_weights(model):
        weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
    assert not any(isinstance(value, DTensor) for value in weights.values())

    resumed = tiny(LEARNS, dropout=False)
    resumed.load_state_dict(weights)
    second = trainer(resumed, folder / f"b{dist.get_rank()}", STEPS // 2, sharded=True)
    restore_optimizer(second.optimizer, state)
    second.run()
    with whole_weights(resumed):
        after = {k: v.detach().clone() for k, v in resumed.state_dict().items()}
        batch = batch_of(resumed, utterances())
        loss = float(resumed.eval().loss(batch).ce_sum.detach())
    rows = first.report.rows + second.report.rows
    if dist.get_rank() == 0:
        result = {"weights": after, "losses": [r["loss"] for r in rows], "loss": loss}
        torch.save(result | {"norms": [r["grad_norm"] for r in rows]}, folder / "sharded.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
