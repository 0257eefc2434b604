"""The modules that learn: encoder frames to audio tokens. A new one is one file and one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tiny_audio.errors import ConfigError
from tiny_audio.model.projectors.base import Projector
from tiny_audio.model.projectors.glm import Glm
from tiny_audio.model.projectors.mlp import Mlp
from tiny_audio.model.projectors.moe import Moe
from tiny_audio.model.projectors.mosa import Mosa
from tiny_audio.model.projectors.qformer import QFormer

Make = Callable[..., Projector]
PROJECTORS: dict[str, Make] = {
    "mlp": Mlp,
    "mosa": Mosa,
    "moe": Moe,
    "qformer": QFormer,
    "glm": Glm,
}


def build_projector(
    type: str, d_encoder: int, d_decoder: int, output_rms: float, options: Mapping[str, Any]
) -> Projector:
    """Build the projector named ``type``; ``options`` are its own values, all of them, by name. The
    widths are D and W; tokens start at ``output_rms``, the RMS of the decoder's embedding rows.
    Raises ConfigError for an unknown type."""
    if type not in PROJECTORS:
        known = ", ".join(PROJECTORS)
        raise ConfigError(f"model.projector.type is {type!r}; choose one of {known}.")
    return PROJECTORS[type](d_encoder, d_decoder, output_rms, **options)
