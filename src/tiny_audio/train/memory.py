"""Memory: batches that fit, and what is done with one that does not.

A batch's loss is a sum over its label tokens, so the gradients of its parts add up to that of the
whole: a batch that does not fit is cut, and nothing is lost but time.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import Tensor

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.config import Config
from tiny_audio.data.batching import collate
from tiny_audio.data.records import Utterance
from tiny_audio.errors import TinyAudioError
from tiny_audio.infer.memory import out_of_memory
from tiny_audio.model.batch import Batch
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.stages import training_mode

AUTO = "auto"
MARGIN = 0.85  # of the memory: fragments, and batches unlike those that were tried
STEP = 10.0  # seconds: the budget is a multiple of it
_SECONDS_PER_GIB = 5.0  # of a machine's memory, where it is not tried
_LEAST, _MOST = 20.0, 240.0  # seconds, where it is not tried
_FAST_SPEECH = 25  # characters a second


class OutOfMemory(TinyAudioError):
    """A single utterance does not fit."""


class MemoryGuard:
    """Runs the micro-batches of a step, in parts where they do not fit as a whole."""

    def __init__(self) -> None:
        self.limit = math.inf  # seconds of padded audio that are computed at once
        self.times = 0  # that memory ran out

    def run(
        self,
        window: Sequence[Batch],
        work: Callable[[Batch, bool], Tensor],
        forget: Callable[[], None],
        *,
        recover: bool = True,
    ) -> list[Tensor]:
        """Do the work of one step; it begins anew, in smaller parts, where memory runs out.

        ``work`` is loss and backward of a part, told whether it is the last of all; its sums over
        the part's tokens [n] are added up for each micro-batch of the window. ``forget`` drops the
        gradients so far. Not to ``recover`` is for FSDP, whose processes wait for each other.
        Raises OutOfMemory where not even one utterance fits.
        """
        while True:
            parts = [(n, part) for n, b in enumerate(window) for part in split(b, self.limit)]
            sums: list[Any] = [0.0] * len(window)
            try:
                for done, (number, part) in enumerate(parts, 1):
                    sums[number] = sums[number] + work(part, done == len(parts))
                return sums
            except (RuntimeError, MemoryError) as error:
                if not recover or not out_of_memory(error):
                    raise
            # Out here the error is gone, and with it the frames that held on to tensors.
            self.times += 1
            if len(part) == 1:
                raise OutOfMemory(
                    f"{part.ids[0]} ({part.padded_seconds:.1f} s) does not fit into memory alone; "
                    "lower data.max_seconds, or set training.gradient_checkpointing=true"
                )
            self.limit = min(self.limit, part.padded_seconds) / 2
            forget()
            del parts, part, sums
            clear_device_cache(garbage_collection=True)


def split(batch: Batch, limit: float) -> list[Batch]:
    """Halve a batch until its parts have at most ``limit`` seconds of padded audio each, or are
    one utterance."""
    if batch.padded_seconds <= limit or len(batch) == 1:
        return [batch]
    half, end = len(batch) // 2, len(batch)
    return [*split(batch.rows(0, half), limit), *split(batch.rows(half, end), limit)]


def choose_budget(model: SpeechModel, accelerator: Accelerator, cfg: Config) -> tuple[float, str]:
    """The most padded audio in a batch that fits, in seconds, and how it was found.

    On CUDA steps are tried on the worst batches, by bisection. Elsewhere there is no error to
    learn from, and it follows from the machine's memory. All processes get the same.

    ``model`` is on its device, with the stage applied.
    """
    clip, count = cfg.data.max_seconds, cfg.training.max_utterances
    if accelerator.device.type == "cuda":
        training_mode(model, cfg.training.learns)
        mine = largest(
            lambda seconds: _fits(model, accelerator, worst_batches(seconds, clip, count)),
            count * clip,
        )
        how = "tried on this GPU"
    else:
        gib = psutil.virtual_memory().total / 2**30
        mine = by_memory(gib / accelerator.num_processes)
        how = f"from {gib:.0f} GiB of memory; on CUDA it is tried instead"
    every = accelerator.gather(torch.tensor([mine], device=accelerator.device))
    return float(every.min()), how


def by_memory(gib: float) -> float:
    """A budget that so much memory bears, in seconds."""
    return STEP * (min(max(gib * _SECONDS_PER_GIB, _LEAST), _MOST) // STEP)


def largest(fits: Callable[[float], bool], most: float) -> float:
    """The largest multiple of ``STEP`` up to ``most`` seconds that fits.

    ``STEP`` itself is not tried: something must be returned, and a step that runs out is cut.
    """
    more = range(2, int(most // STEP) + 1)
    return STEP * (1 + bisect_left(more, True, key=lambda count: not fits(count * STEP)))


def worst_batches(budget: float, max_seconds: float, max_utterances: int) -> list[list[Utterance]]:
    """Noise with long labels: as few and as many clips as a budget in seconds allows."""
    long = min(max_seconds, budget)
    few = max(1, min(max_utterances, int(budget // long)))
    batches = []
    for count, seconds in ((few, long), (max_utterances, min(long, budget / max_utterances))):
        samples = max(SAMPLE_RATE // 2, int(seconds * SAMPLE_RATE))
        noise = np.random.default_rng(0).standard_normal(samples).astype(np.float32) * 0.1
        characters = samples * _FAST_SPEECH // SAMPLE_RATE
        text = ("a quick brown fox " * (2 + characters // 18))[:characters]
        batches.append([Utterance("probe", noise, text, "probe")] * count)
    return batches


def _fits(
    model: SpeechModel, accelerator: Accelerator, batches: Sequence[Sequence[Utterance]]
) -> bool:
    """Whether a step on the batches leaves the margin."""
    learning, device = [p for p in model.parameters() if p.requires_grad], accelerator.device
    free, whole = torch.cuda.mem_get_info(device)
    allowed = min(MARGIN * (free + torch.cuda.memory_reserved(device)), MARGIN * whole)
    # AdamW's moments, fp32, made in the first step, and gradients that travel.
    later = (12 if accelerator.num_processes > 1 else 8) * sum(p.numel() for p in learning)
    clear_device_cache(garbage_collection=True)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        with torch.random.fork_rng([device]):
            for members in batches:
                batch = collate(members, model.prompt, model.audio_tokens, with_labels=True)
                with accelerator.autocast():
                    loss = model.loss(batch.to(device))
                loss.total.backward()
        return torch.cuda.max_memory_reserved(device) + later < allowed
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return False
    finally:
        for parameter in learning:
            parameter.grad = None
        clear_device_cache(garbage_collection=True)
