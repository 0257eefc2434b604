"""How much audio goes through the model at once, where memory decides.

An estimate from the model's sizes picks the first batches. Where it was too bold, a batch that
does not fit is halved and repeated, and so are those that come after it: nothing is lost.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import psutil
import torch

from tiny_audio.model.speech import SpeechModel

T = TypeVar("T")

logger = logging.getLogger(__name__)

AUTO = 0  # as a number of utterances: what memory allows
MOST_UTTERANCES = {"cuda": 1024, "cpu": 256}  # more are no faster
_SHARE = 0.5  # of the memory that is free, for one batch; the rest is for what is not counted
_FLOAT = 4
_SAMPLES, _FRAMES = 16_000, 100  # a second


def largest_batch(model: SpeechModel) -> tuple[float, int]:
    """(seconds of padded audio, utterances) of a batch that the free memory should take."""
    device = model.device
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + _unused(device)
    else:
        free = psutil.virtual_memory().available
    seconds = _SHARE * free / bytes_per_second(model)
    return max(seconds, model.window_seconds), MOST_UTTERANCES.get(device.type, 64)


def bytes_per_second(model: SpeechModel) -> float:
    """About the most memory that a second of padded audio holds: the larger of encoding and
    decoding, each with its activations, and the waveform."""
    lm, config = model.causal_lm, model.causal_lm.config
    size = next(lm.parameters()).element_size()
    tokens = model.audio_tokens(10 * _SAMPLES) / 10 + 1 / 2  # and the prompt's
    written = 10.0  # tokens a second: the cap of GenerationConfig
    layers, width = int(config.num_hidden_layers), int(config.hidden_size)
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    head = int(getattr(config, "head_dim", None) or width // int(config.num_attention_heads))
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    cache = 2 * layers * heads * head * size * (tokens + written)
    prompt = (3 * inner + 8 * width) * size * tokens
    logits = 3 * _FLOAT * int(config.vocab_size) / 2  # a row every two seconds
    spectrum = _FRAMES * 4 * 8 * 256
    encoded = 0.0
    if width_of_encoder := getattr(model.encoder, "width", None):
        # Of the layers: the inner width of four, and as much again of everything else.
        encoded = (_FRAMES / 2) * 14 * int(width_of_encoder) * size
    return 2 * _FLOAT * _SAMPLES + max(cache + prompt + logits, encoded + spectrum)


def in_parts(
    batches: Sequence[list[T]],
    seconds: Callable[[T], float],
    run: Callable[[list[T]], None],
    limit: float,
) -> float:
    """Run every batch, in halves where it does not fit; says so once.

    Args:
        seconds: length of an item; a batch takes as much as its longest, for each of its items.
        run: one batch; raises as PyTorch does when memory is out.
        limit: the padded seconds that are known not to be too much; larger batches are halved
            at once.

    Returns:
        The limit, lower where a batch did not fit.

    Raises:
        torch.OutOfMemoryError: a single item does not fit.
    """
    pending = deque(batches)
    while pending:
        batch = pending.popleft()
        padded = len(batch) * max(map(seconds, batch))
        if len(batch) > 1 and padded > limit:
            pending.extendleft([batch[len(batch) // 2 :], batch[: len(batch) // 2]])
            continue
        if _fits(run, batch, last=len(batch) == 1):
            continue
        if limit == float("inf"):
            logger.warning(
                "A batch of %.0f s of audio, padding included, does not fit into memory: it is "
                "halved, and so are those after it.",
                padded,
            )
        limit = padded / 2 + 1e-6
        pending.appendleft(batch)
    return limit


def _fits(run: Callable[[list[T]], None], batch: list[T], *, last: bool) -> bool:
    try:
        run(batch)
    except (RuntimeError, MemoryError) as error:
        if last or not out_of_memory(error):
            raise
    else:
        return True
    if torch.cuda.is_available():  # after the traceback, which holds what the batch took, is gone
        torch.cuda.empty_cache()
    return False


def out_of_memory(error: BaseException) -> bool:
    """Whether memory is out, on a device or in the machine, for which PyTorch has no class."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _unused(device: torch.device) -> int:
    """Bytes that PyTorch holds on the device and nobody uses."""
    return torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
