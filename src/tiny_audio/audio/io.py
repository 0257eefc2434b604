"""Any recording to one waveform: mono, float32, 16 kHz. S samples, C channels."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from tiny_audio.audio import SAMPLE_RATE as SAMPLE_RATE
from tiny_audio.audio import decode
from tiny_audio.audio.remote import opened
from tiny_audio.errors import AudioError

AudioInput = str | Path | bytes | BinaryIO | NDArray[Any] | torch.Tensor

_MIN_RATE, _MAX_RATE = 1_000, 768_000  # Hz; a header that says anything else is wrong


def load_audio(
    source: AudioInput,
    *,
    sample_rate: int | None = None,
    max_seconds: float | None = None,
    offset: float | None = None,
    duration: float | None = None,
    max_bytes: int | None = None,
) -> decode.Mono:
    """Read a recording as a mono float32 waveform [S] at 16 kHz.

    Channels are averaged and the rate is changed by soxr (HQ). Integer samples are scaled to
    [-1, 1]; floating-point ones are taken as they are.

    Args:
        source: path, address, encoded bytes, binary file object, or samples as array or tensor:
            [S], [C, S] or [S, C], where the smaller axis is the channels.
        sample_rate: of an array, 16 kHz unless given; encoded audio carries its own.
        max_seconds: refuse what is longer; without meaning beside an `offset`.
        offset, duration: read only this stretch, in seconds, or what the recording holds of it.
        max_bytes: refuse an address or a pipe of more, see ``opened``.

    Raises AudioError with one of its reasons.
    """
    limits: dict[str, Any] = {"sample_rate": sample_rate, "max_bytes": max_bytes}
    if offset is None:
        return np.concatenate(list(audio_blocks(source, max_seconds=max_seconds, **limits)))
    start, stop = round(offset * SAMPLE_RATE), sys.maxsize
    if duration is not None:
        stop = start + round(duration * SAMPLE_RATE)
        if not isinstance(source, (np.ndarray, torch.Tensor)):
            with opened(source, max_bytes=max_bytes) as (file, _):
                if (found := decode.read_stretch(file, start, stop)) is not None:
                    return found
    pieces, position = [np.zeros(0, np.float32)], 0
    for block in audio_blocks(source, **limits):
        pieces.append(block[max(0, start - position) : max(0, stop - position)])
        position += len(block)
        if position >= stop:
            break
    return np.concatenate(pieces)


def audio_blocks(
    source: AudioInput,
    *,
    sample_rate: int | None = None,
    max_seconds: float | None = None,
    max_bytes: int | None = None,
    live: bool = False,
) -> Iterator[decode.Mono]:
    """Read a recording in blocks of a few MB; joined, they are what ``load_audio`` returns.

    So are the errors; of a recording that is damaged or breaks off, what can be read comes first.
    With `live` a pipe is decoded while it is still being written, by FFmpeg in every format.
    """
    if isinstance(source, (np.ndarray, torch.Tensor)):
        samples, name = _as_samples(source)
        rate = SAMPLE_RATE if sample_rate is None else sample_rate
        decoding = decode.Decoding(rate, samples.shape[1] / max(rate, 1), slack=1.0)
        decoding.blocks = iter([decode.to_mono(samples, channel_axis=0)])
        yield from _resampled(decoding, name, max_seconds)
        return
    given = 0  # samples; another decoder begins anew, and these are left out
    with opened(source, max_bytes=max_bytes, whole=not live) as (file, name):
        for decoder in (decode.libsndfile, decode.ffmpeg):
            known = given
            try:
                file.seek(0)
                with decoder(file) as decoding:
                    for block in _resampled(decoding, name, max_seconds):
                        new = block[known:]
                        known = max(0, known - len(block))
                        given += len(new)
                        if len(new):
                            yield new
                return
            except decode.UndecodableError as error:
                failure = error
        raise AudioError(f"{name} {failure.finding}", reason=failure.reason) from failure


def _resampled(
    decoding: decode.Decoding, name: str, max_seconds: float | None
) -> Iterator[decode.Mono]:
    """Decode, resample and check a recording, block by block, up to `max_seconds` of it."""
    rate = decoding.rate
    if not _MIN_RATE <= rate <= _MAX_RATE:
        message = f"{name} has a sample rate of {rate} Hz, not {_MIN_RATE} to {_MAX_RATE}"
        raise AudioError(message, "unreadable")
    limit = np.inf if max_seconds is None else max_seconds
    if (decoding.declared or 0.0) > limit:
        message = f"{name} is {decoding.declared:.2f} s long, over the {limit:g} s allowed"
        raise AudioError(message, "too_long")
    resampler = None
    if rate != SAMPLE_RATE:
        resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    found = 0
    for block in decoding.blocks:
        found += len(block)
        if found > limit * rate:
            raise AudioError(f"{name} is longer than the {limit:g} s allowed", "too_long")
        yield _finite(resampler.resample_chunk(block) if resampler else block, name)
    if resampler:
        yield _finite(resampler.resample_chunk(np.zeros(0, np.float32), last=True), name)

    seconds, declared = found / rate, decoding.declared or 0.0
    if max(decoding.damage, declared - seconds) > decoding.slack:
        expected = f" of {declared:.2f} s" if declared > seconds else ""
        read = f"{seconds:.2f} s{expected} could be read; copy or download it again"
        raise AudioError(f"{name} is damaged or breaks off: {read}", "truncated")
    if not found:
        raise AudioError(f"{name} holds no samples", "empty")


def _finite(block: decode.Mono, name: str) -> decode.Mono:
    if not np.isfinite(block).all():
        raise AudioError(f"{name} holds samples that are NaN or infinite", "not_finite")
    return block


def _as_samples(source: NDArray[Any] | torch.Tensor) -> tuple[NDArray[Any], str]:
    """Bring samples to [C, S], in the dtype they have, and name them for messages."""
    name = f"the {'array' if isinstance(source, np.ndarray) else 'tensor'} {tuple(source.shape)}"
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
    kind = source.dtype.kind
    if kind not in "fiu" or (kind != "f" and source.dtype.itemsize > 4):
        wanted = "floats in [-1, 1] or integers of up to 32 bits"
        raise AudioError(f"{name} holds {source.dtype}: give {wanted}", "not_audio")
    if source.ndim not in (1, 2):
        raise AudioError(f"{name} is neither [S] nor [C, S]: reshape it", "not_audio")
    if not source.size:
        raise AudioError(f"{name} holds no samples", "empty")
    if source.ndim == 1:
        return source[None], name
    return (source if source.shape[0] <= source.shape[1] else source.T), name
