"""Several processes: sums over them, what FSDP splits, and signals that all of them get.

Without FSDP every process has the whole model and adds up the gradients of all, once in a step.
With FSDP each holds a piece of what learns, of its gradients and of the optimizer's state, which
saves 12 bytes a parameter; frozen weights stay whole, in the compute dtype. Outside training steps
(evaluation, saving) all weights are made whole for a while.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType, recursively_apply
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from tiny_audio.errors import ConfigError
from tiny_audio.model.build import pick_device
from tiny_audio.model.speech import SpeechModel


def open_accelerator(
    device: str, precision: str, folder: str, *, tracker: str | None = None
) -> Accelerator:
    """Join the processes that ``accelerate launch`` or ``torchrun`` started, or be the only one.

    ``precision`` is auto, bf16 or fp32; ``tracker`` writes below ``folder``.
    """
    # Batches of many shapes leave holes in CUDA's memory; read when CUDA is first used.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    kind = pick_device(device).type
    cuda = kind == "cuda"
    if precision == "auto":
        precision = "bf16" if cuda and torch.cuda.is_bf16_supported() else "fp32"
    if cuda:
        torch.set_float32_matmul_precision("high")  # TF32 for the products of what learns
    return Accelerator(
        cpu=kind == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
        log_with=tracker,
        project_dir=folder,
    )


def close_accelerator(accelerator: Accelerator) -> None:
    """Leave the process group and forget Accelerate's state, so that another run can start."""
    # What wraps the model holds the process group; threads of a group that outlives the
    # interpreter abort the process at its very end.
    accelerator.free_memory()
    gc.collect()
    accelerator.end_training()
    # Accelerate's state is global: without this a second run could not choose its precision.
    GradientState._reset_state()
    AcceleratorState._reset_state(reset_partial_state=True)


def shard(
    accelerator: Accelerator, model: SpeechModel, optimizer: torch.optim.Optimizer
) -> torch.optim.Optimizer:
    """Split what learns among the processes, if the run uses FSDP; the optimizer of the pieces.

    Raises ConfigError for FSDP's first version, which cannot leave frozen parameters out.
    """
    if accelerator.distributed_type != DistributedType.FSDP:
        return optimizer
    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ConfigError("FSDP: only version 2 works here; accelerate launch --fsdp_version=2")
    plugin.ignored_modules = frozen_modules(model)
    plugin.auto_wrap_policy = None
    plugin.cpu_ram_efficient_loading = False  # every process has loaded the weights already
    plugin.mixed_precision_policy = None  # autocast does it; gradients stay fp32
    _, split = accelerator.prepare(model, optimizer)
    return cast(torch.optim.Optimizer, split)


def frozen_modules(module: nn.Module) -> list[nn.Module]:
    """The largest modules in which nothing learns."""
    if not any(p.requires_grad for p in module.parameters()):
        return [module]
    return [frozen for child in module.children() for frozen in frozen_modules(child)]


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP has cut what learns into pieces."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def sum_gradients(module: nn.Module, accelerator: Accelerator) -> None:
    """Add up the gradients of all processes; does nothing under FSDP.

    DDP would do it in the backward pass, where one without memory would leave the others waiting.
    """
    if accelerator.num_processes > 1 and not is_sharded(module):
        learning = [p for p in module.parameters() if p.requires_grad]
        for parameter in learning:
            if parameter.grad is None:  # an expert that no token of this process went to
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in learning if p.grad is not None]
        flat = parameters_to_vector(gradients)
        torch.distributed.all_reduce(flat)
        vector_to_parameters(flat, gradients)


def total(values: list[float], accelerator: Accelerator) -> list[float]:
    """Sum each value over the processes, in float64."""
    if accelerator.num_processes == 1:
        return values
    mine = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    totals: list[float] = accelerator.reduce(mine, "sum").tolist()
    return totals


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Have whole fp32 weights in place of their pieces; all processes must enter together."""
    pieces = [
        (owner, name, parameter)
        for owner in module.modules()
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False)
        if isinstance(parameter, DTensor)
    ]
    whole = {  # by piece: tied names share one
        id(piece): nn.Parameter(whole_tensor(piece.detach()), piece.requires_grad)
        for _, _, piece in pieces
    }
    try:
        for owner, name, piece in pieces:
            owner._parameters[name] = whole[id(piece)]
        yield
    finally:
        for owner, name, piece in pieces:
            owner._parameters[name] = piece


def whole_tensor(tensor: Tensor) -> Tensor:
    """The tensor itself, or gathered from all processes where this one has a piece of it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(state: dict[str, Any]) -> dict[str, Any]:
    """A nested state with every piece replaced by the whole, on the CPU."""
    whole: dict[str, Any] = recursively_apply(
        lambda piece: piece.full_tensor().cpu(), state, test_type=lambda x: isinstance(x, DTensor)
    )
    return whole


def split_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Cut whole moments, as a checkpoint holds them, into pieces like their parameters'."""
    for parameter, moments in optimizer.state.items():
        if isinstance(parameter, DTensor):
            mesh, placements = parameter.device_mesh, parameter.placements
            for name, value in moments.items():
                if value.shape == parameter.shape and not isinstance(value, DTensor):
                    moments[name] = distribute_tensor(value, mesh, placements)


@contextmanager
def held_signals(*, patient: bool) -> Iterator[list[int]]:
    """Context in which the first Ctrl-C or SIGTERM is only put into the list that it yields.

    A second one has its usual effect, unless ``patient``: a launcher of several processes passes a
    Ctrl-C on to processes that the terminal has already told. Outside the main thread, where
    Python allows no handlers, all signals have theirs.
    """
    received: list[int] = []
    before: dict[int, Any] = {}
    process = os.getpid()

    def hold(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process or (received and not patient):  # a forked worker dies as usual
            signal.signal(number, before[number])
            os.kill(os.getpid(), number)
            return
        if not patient:
            os.write(2, b"\nFinishing this step and saving; once more stops at once.\n")
        received.append(number)

    if threading.current_thread() is threading.main_thread():
        before |= {
            number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)
        }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
