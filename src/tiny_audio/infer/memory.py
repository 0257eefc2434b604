"""How much of a recording fits into memory at once, and what is done where it does not."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import psutil
import torch

from tiny_audio.audio.io import SAMPLE_RATE
from tiny_audio.config import GenerationConfig
from tiny_audio.model.speech import SpeechModel

T = TypeVar("T")

logger = logging.getLogger(__name__)

MOST_UTTERANCES = {"cuda": 1024, "cpu": 256}  # more are no faster
_MESSAGES = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_SHARE = 0.5  # of the memory that is free, for one batch; the rest is for what is not counted


def largest_batch(model: SpeechModel) -> tuple[float, int]:
    """(seconds of padded audio, utterances) of a batch that the free memory should take."""
    device = model.device
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + unused
    else:
        free = psutil.virtual_memory().available
    seconds = _SHARE * free / bytes_per_second(model)
    return max(seconds, model.window_seconds), MOST_UTTERANCES.get(device.type, 64)


def bytes_per_second(model: SpeechModel) -> float:
    """About what a second of padded audio needs: its samples, and encoding or decoding."""
    lm, config = model.causal_lm, model.causal_lm.config
    size, float32, mel_frames = next(lm.parameters()).element_size(), 4, 100
    tokens = model.audio_tokens(10 * SAMPLE_RATE) / 10 + 1 / 2  # and the prompt's
    layers, width = int(config.num_hidden_layers), int(config.hidden_size)
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    head = int(getattr(config, "head_dim", None) or width // int(config.num_attention_heads))
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    written = GenerationConfig.tokens_per_second
    cache = 2 * layers * heads * head * size * (tokens + written)
    prompt = (3 * inner + 8 * width) * size * tokens
    logits = 3 * float32 * int(config.vocab_size) / 2  # a row every two seconds
    spectrum = mel_frames * 4 * 8 * 256
    # Of the encoder's layers: the inner width of four, and as much again of everything else.
    encoded = mel_frames / 2 * 14 * model.encoder.width * size
    return 2 * float32 * SAMPLE_RATE + max(cache + prompt + logits, encoded + spectrum)


def in_parts(
    batches: Sequence[list[T]],
    seconds: Callable[[T], float],
    run: Callable[[list[T]], None],
    limit: float,
) -> float:
    """Run every batch, in halves where it does not fit; warns once.

    A batch takes as much as its longest item has ``seconds``, for each of its items; one above
    ``limit``, known to be too much, is halved at once. Returns the limit, lower where a batch did
    not fit. Raises what ``run`` does if a single item does not fit.
    """
    pending = deque(batches)
    while pending:
        batch = pending.popleft()
        padded = len(batch) * max(map(seconds, batch))
        if len(batch) > 1 and padded > limit:
            pending.extendleft([batch[len(batch) // 2 :], batch[: len(batch) // 2]])
            continue
        try:
            run(batch)
            continue
        except (RuntimeError, MemoryError) as error:
            if len(batch) == 1 or not out_of_memory(error):
                raise
        if torch.cuda.is_available():  # now that the traceback, which holds the batch's, is gone
            torch.cuda.empty_cache()
        if limit == math.inf:
            logger.warning(
                "A batch of %.0f s of audio, padding included, does not fit into memory: it is "
                "halved, and so are those after it.",
                padded,
            )
        limit = padded / 2 + 1e-6
        pending.appendleft(batch)
    return limit


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a device or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(m in str(error) for m in _MESSAGES)
