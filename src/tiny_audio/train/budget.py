"""``training.batch_seconds=auto``: the most padded audio in a batch that fits into memory.

On CUDA it is tried: a step on the two worst shapes of a batch (few long clips, many short ones),
with twice as much each time until it does not fit, then by bisection. Elsewhere there is no error
to learn from, and it follows from the machine's memory by a fixed rule.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import psutil
import torch
from accelerate import Accelerator

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.config import Config
from tiny_audio.data.batching import collate
from tiny_audio.data.records import Utterance
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.oom import is_out_of_memory, release
from tiny_audio.train.stages import training_mode

AUTO = "auto"
MARGIN = 0.85  # of the memory: fragments, and batches unlike those that were tried
STEP = 10.0  # seconds: the budget is a multiple of it
_SECONDS_PER_GIB = 5.0  # of a machine's memory, where it is not tried
_LEAST, _MOST = 20.0, 240.0  # seconds, where it is not tried
_FAST_SPEECH = 25  # characters a second


def choose_budget(
    cfg: Config, model: SpeechModel, accelerator: Accelerator
) -> tuple[float, str | None]:
    """The budget of a micro-batch in seconds, the same in all processes, and what to say of it."""
    given = cfg.training.batch_seconds
    if given != AUTO:
        return float(given), None
    if accelerator.device.type == "cuda":
        most = cfg.training.max_utterances * cfg.data.max_seconds
        mine = largest(lambda s: _fits(cfg, model, accelerator, s), STEP, most)
        how = "tried on this GPU"
    else:
        gib = psutil.virtual_memory().total / 2**30
        mine = by_memory(gib / accelerator.num_processes)
        how = f"from {gib:.0f} GiB of memory; on CUDA it is tried instead"
    if accelerator.num_processes > 1:
        every = accelerator.gather(torch.tensor([mine], device=accelerator.device))
        mine = float(every.min())
    return mine, f"training.batch_seconds=auto: {mine:.0f} s ({how})"


def by_memory(gib: float) -> float:
    """A budget that so much memory bears, in seconds."""
    return STEP * (min(max(gib * _SECONDS_PER_GIB, _LEAST), _MOST) // STEP)


def largest(fits: Callable[[float], bool], least: float, most: float) -> float:
    """The largest multiple of ``least`` up to ``most`` that fits, within about 5 percent.

    ``least`` is not tried: something must be returned, and a step that runs out is cut.
    """
    top = max(1, int(most // least))
    low, high = 1, 2
    while high <= top and fits(high * least):
        low, high = high, 2 * high
    if high > top:
        if low == top or fits(top * least):
            return top * least
        high = top
    while high - low > max(1, low // 20):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * least) else (low, middle)
    return low * least


def worst_batches(
    budget: float, *, max_seconds: float, max_utterances: int, chars: int = _FAST_SPEECH
) -> list[list[Utterance]]:
    """Noise with long labels: as few and as many clips as a budget in seconds allows."""
    long = min(max_seconds, budget)
    few = max(1, min(max_utterances, int(budget // long)))
    batches = []
    for count, seconds in ((few, long), (max_utterances, min(long, budget / max_utterances))):
        samples = max(SAMPLE_RATE // 2, int(seconds * SAMPLE_RATE))
        noise = np.random.default_rng(0).standard_normal(samples).astype(np.float32) * 0.1
        text = ("a quick brown fox " * (2 + samples * chars // SAMPLE_RATE // 18))[
            : max(1, samples * chars // SAMPLE_RATE)
        ]
        batches.append([Utterance("probe", noise, text, "probe")] * count)
    return batches


def _fits(cfg: Config, model: SpeechModel, accelerator: Accelerator, budget: float) -> bool:
    """Whether a step on the worst batches leaves the margin; leaves no trace in the model."""
    learning = [p for p in model.parameters() if p.requires_grad]
    device = accelerator.device
    free, whole = torch.cuda.mem_get_info(device)
    allowed = MARGIN * (free + torch.cuda.memory_reserved(device))
    moments = 8 * sum(p.numel() for p in learning)  # AdamW's, fp32, made in the first step
    moments += moments // 2 if accelerator.num_processes > 1 else 0  # gradients that travel
    generator = model.augment_generator
    state = None if generator is None else generator.get_state()
    release()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        with torch.random.fork_rng([device]):
            try_step(cfg, model, accelerator, budget)
        return torch.cuda.max_memory_reserved(device) + moments < min(allowed, MARGIN * whole)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        for parameter in learning:
            parameter.grad = None
        if generator is not None and state is not None:
            generator.set_state(state)
        gc.collect()
        torch.cuda.empty_cache()


def try_step(cfg: Config, model: SpeechModel, accelerator: Accelerator, budget: float) -> None:
    """Forward and backward on the worst batches of a budget; adds to the gradients."""
    training_mode(model, cfg.training.learns)
    for members in worst_batches(
        budget,
        max_seconds=cfg.data.max_seconds,
        max_utterances=cfg.training.max_utterances,
    ):
        batch = collate(members, model.prompt, model.audio_tokens, with_labels=True)
        with accelerator.autocast():
            loss = model.loss(batch.to(accelerator.device))
        loss.total.backward()
