"""Text as it is written: the pieces add up to exactly what generate would have written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from tiny_audio.config import GenerationConfig
from tiny_audio.infer.recognise import cut_clips, prompt_batch
from tiny_audio.model.speech import SpeechModel


def stream(
    model: SpeechModel, waveforms: Iterable[np.ndarray], options: GenerationConfig
) -> Iterator[str]:
    """Pieces of the text of consecutive waveforms [S] float32 16 kHz, span after span."""
    return join_pieces(
        model.stream(prompt_batch(model, [clip]), options)
        for waveform in waveforms
        for _, clip in cut_clips(model, waveform)
    )


def join_pieces(texts: Iterable[Iterable[str]]) -> Iterator[str]:
    """Texts that come in pieces, put together the way `join_texts` puts whole texts together.

    White space is held back until it is known to lie inside a text.
    """
    written = False
    for pieces in texts:
        held, inside = "", False
        for piece in pieces:
            held += piece
            ready = held.rstrip() if inside else held.strip()
            if not ready:
                continue
            if not inside and written:
                yield " "
            yield ready
            held = held[len(held.rstrip()) :]
            inside = written = True
