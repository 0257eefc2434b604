"""How long things get in a model: audio tokens, label tokens, context. No weights are fetched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from tiny_audio.config import ModelConfig
from tiny_audio.errors import ModelError
from tiny_audio.hub import SMALL_FILES, snapshot
from tiny_audio.model.build import build_model, resolve_id
from tiny_audio.model.device import pick_device
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.prompt import Prompt


@dataclass(frozen=True)
class Lengths:
    """What data must know of a model.

    Attributes:
        audio_tokens: samples -> audio tokens.
        prompt: with the decoder's own tokenizer.
        context: positions that the decoder has, None where its configuration does not say.
    """

    name: str
    audio_tokens: Callable[[int], int]
    prompt: Prompt
    context: int | None


def lengths_of(cfg: ModelConfig, tokenizer: Path | None = None) -> Lengths:
    """The lengths of a pair.

    Args:
        cfg: of the pair. Of a decoder from the hub only the tokenizer is fetched.
        tokenizer: a folder that holds it, as a checkpoint does.

    Raises:
        HubError, ModelError: the tokenizer cannot be had.
    """
    wanted_random = cfg.random_weights
    model = skeleton(cfg)
    prompt = model.prompt
    if cfg.random_weights and not wanted_random:  # then the tokenizer is a stand-in as well
        source = str(tokenizer or resolve_id(cfg.decoder.id))
        folder = snapshot(source, cfg.decoder.revision, files=SMALL_FILES)
        try:
            loaded = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, ImportError) as error:
            first = str(error).strip().splitlines()[0]
            raise ModelError(
                f"{source}: its tokenizer cannot be loaded, so there are no label tokens to count: "
                f"{first} Set model.decoder.id to a folder that has it, or use --model nano."
            ) from None
        prompt = Prompt.from_tokenizer(
            loaded, cfg.decoder.instruction, placeholder=cfg.decoder.placeholder
        )
    context = getattr(model.causal_lm.config, "max_position_embeddings", None)
    return Lengths(cfg.name, model.audio_tokens, prompt, context)


def skeleton(cfg: ModelConfig) -> SpeechModel:
    """The architecture alone, as large as the real one but without a number in it.

    Pairs that are on this machine anyway are built whole.
    """
    bundled = cfg.encoder.id.startswith("bundled:")
    if bundled or (cfg.random_weights and cfg.name == "tiny"):
        return build_model(cfg, device=pick_device("cpu"))
    cfg.random_weights = True
    cfg.dtype = "bfloat16"
    return build_model(cfg, device=torch.device("meta"))
