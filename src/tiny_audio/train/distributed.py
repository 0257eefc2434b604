"""Several processes: what DDP sends around, what FSDP splits, and signals that all of them get.

With FSDP each process holds a piece of what learns, of its gradients and of the optimizer's state,
which saves 12 bytes a parameter; frozen weights stay whole, in the compute dtype. Outside training
steps (evaluation, saving) all weights are made whole for a while.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType, recursively_apply
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from tiny_audio.errors import ConfigError
from tiny_audio.model.batch import Batch
from tiny_audio.model.build import pick_device
from tiny_audio.model.speech import SpeechModel

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def open_accelerator(
    device: str, precision: str, folder: str, *, tracker: str | None = None
) -> Accelerator:
    """Join the processes that ``accelerate launch`` or ``torchrun`` started, or be the only one.

    ``precision`` is auto, bf16 or fp32; ``tracker`` writes below ``folder``.
    """
    # Batches of many shapes leave holes in CUDA's memory; read when CUDA is first used.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    cuda = pick_device(device).type == "cuda"
    if precision == "auto":
        precision = "bf16" if cuda and torch.cuda.is_bf16_supported() else "fp32"
    if cuda:
        torch.set_float32_matmul_precision("high")  # TF32 for the products of what learns
    return Accelerator(
        cpu=pick_device(device).type == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
        log_with=tracker,
        project_dir=folder,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
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


class LossModule(nn.Module):
    """The model as DDP and FSDP want it: something whose forward gives the loss."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = model
        # Frozen weights are the same in every process already: do not send gigabytes around.
        names = [n for n, p in self.named_parameters() if not p.requires_grad]
        names += [n for n, _ in self.named_buffers()]
        self._ddp_params_and_buffers_to_ignore = names

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums over the batch's label tokens: what to minimise, and the cross-entropy in it."""
        loss = self.model.loss(batch)
        return loss.total, loss.ce_sum


def sum_gradients(module: nn.Module, accelerator: Accelerator) -> None:
    """Add up the gradients of all processes, once in a step; does nothing under FSDP.

    Were DDP to do it in the backward pass, a process without memory would leave the others waiting.
    """
    if accelerator.num_processes == 1 or is_sharded(module):
        return
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
    flat = parameters_to_vector(gradients)
    torch.distributed.all_reduce(flat)
    vector_to_parameters(flat, gradients)


def total(values: list[float], accelerator: Accelerator) -> list[float]:
    """Sum each value over the processes."""
    if accelerator.num_processes == 1:
        return values
    mine = torch.tensor(values, dtype=torch.float32, device=accelerator.device)
    totals: list[float] = accelerator.reduce(mine, "sum").tolist()
    return totals


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP has cut what learns into pieces."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def configure_fsdp(accelerator: Accelerator, module: nn.Module) -> None:
    """Tell Accelerate what to split, if the run uses FSDP.

    Raises ConfigError for FSDP's first version, which cannot leave frozen parameters out.
    """
    if accelerator.distributed_type != DistributedType.FSDP:
        return
    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ConfigError("FSDP: only version 2 works here; accelerate launch --fsdp_version=2")
    plugin.ignored_modules = frozen_modules(module)
    plugin.auto_wrap_policy = None
    plugin.cpu_ram_efficient_loading = False  # every process has loaded the weights already
    plugin.mixed_precision_policy = None  # autocast does it, as in DDP; gradients stay fp32


def frozen_modules(module: nn.Module) -> list[nn.Module]:
    """The largest modules in which nothing learns."""
    if not any(p.requires_grad for p in module.parameters()):
        return [module]
    return [frozen for child in module.children() for frozen in frozen_modules(child)]


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Have whole fp32 weights in place of their pieces; all processes must enter together."""
    pieces = [
        (owner, name, parameter)
        for owner in module.modules()
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False)
        if isinstance(parameter, DTensor)
    ]
    tied = {id(piece): piece for _, _, piece in pieces}
    whole = {
        key: nn.Parameter(whole_tensor(piece.detach()), piece.requires_grad)
        for key, piece in tied.items()
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

    def put_back() -> None:
        while before:
            signal.signal(*before.popitem())

    def hold(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker that was forked off dies as it would have
            put_back()
            os.kill(os.getpid(), number)
        if not patient:
            put_back()
            os.write(2, b"\nFinishing this step and saving; once more stops at once.\n")
        received.append(number)

    if threading.current_thread() is threading.main_thread():
        before |= {number: signal.signal(number, hold) for number in _SIGNALS}
    try:
        yield received
    finally:
        put_back()
