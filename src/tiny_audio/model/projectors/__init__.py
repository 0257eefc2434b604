"""The modules that learn: encoder frames to audio tokens. A new one is one file and one line."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from tiny_audio.errors import ConfigError
from tiny_audio.model.projectors.base import Projector
from tiny_audio.model.projectors.mlp import Mlp
from tiny_audio.model.projectors.moe import Moe
from tiny_audio.model.projectors.mosa import Mosa
from tiny_audio.model.projectors.qformer import QFormer

PROJECTORS: dict[str, type[Projector]] = {
    "mlp": Mlp,
    "mosa": Mosa,
    "moe": Moe,
    "qformer": QFormer,
}


def build_projector(
    type: str, d_encoder: int, d_decoder: int, output_rms: float, options: Mapping[str, Any]
) -> Projector:
    """Build the projector named ``type``.

    Args:
        type: a key of ``PROJECTORS``.
        d_encoder: D, width of an encoder frame.
        d_decoder: W, width of the decoder's embeddings.
        output_rms: RMS of the decoder's embedding rows, at which the tokens start.
        options: the projector's own values, all of them, by name.

    Raises:
        ConfigError: unknown type, or options that are not this projector's.
    """
    if type not in PROJECTORS:
        raise ConfigError(
            f"model.projector.type is {type!r}; choose one of {', '.join(PROJECTORS)}."
        )
    kind = PROJECTORS[type]
    names = list(inspect.signature(kind).parameters)[3:]
    for name in sorted(set(names) ^ set(options)):
        fault = "is missing" if name in names else f"is unknown; it has {', '.join(names)}"
        raise ConfigError(f"model.projector.{type}.{name} {fault}.")
    return kind(d_encoder, d_decoder, output_rms, **options)


__all__ = ["PROJECTORS", "Projector", "build_projector"]
