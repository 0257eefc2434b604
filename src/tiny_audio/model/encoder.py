"""The frozen audio encoder, GLM-ASR's or Whisper's: log-mel frames in, one vector for two out.

Both were trained on clips zero-padded to 30 s. ``tight`` computes on the clip alone: what lies
beyond it is zeroed before, between and after the convolutions and hidden from attention by a key
padding mask, so that a clip gives the same frames alone and in any batch. ``native`` repeats what
the checkpoints saw in training: the whole window, no mask. Shapes: B utterances, M mel bands,
L mel frames, E encoder frames, D encoder width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import (
    AttentionInterface,
    GlmAsrEncoderConfig,
    PreTrainedModel,
    WhisperConfig,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.glmasr.modeling_glmasr import GlmAsrEncoder
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from tiny_audio.errors import ConfigError, ModelError
from tiny_audio.hub import SMALL_FILES, snapshot
from tiny_audio.model.projectors.base import Length, length_mask
from tiny_audio.model.weights import check_tensors, find_tensors, random_module, read_matching

ATTENTION = ("sdpa", "flash_attention_2")  # of transformers' implementations
_CACHED_FRAMES = 1_200  # mel frames (12 s) whose activations fit a core's cache: measured
_KEY_MASK = "key_mask_"  # before the name of an attention implementation: takes `key_mask` as well
# model_type in the checkpoint's config.json -> what marks the encoder's tensors in their names
_MARKERS = {"glmasr": "audio_tower", "glmasr_encoder": "", "whisper": "encoder"}


class AudioEncoder(nn.Module):
    """Base of the two-convolution encoders; subclasses run the layers. ``tower``: transformers'
    ``GlmAsrEncoder`` or ``WhisperEncoder``; ``padding``: see the module's text."""

    def __init__(self, tower: PreTrainedModel, padding: str) -> None:
        super().__init__()
        if padding not in ("tight", "native"):
            raise ConfigError(f"model.encoder.padding: '{padding}' is unknown; use tight or native")
        self.tower: Any = tower  # its parts differ by family
        self.padding = padding
        self.attn_implementation: str = tower.config._attn_implementation

    @property
    def width(self) -> int:
        """D, the size of one encoder frame."""
        return int(self.tower.conv1.out_channels)

    @property
    def n_mels(self) -> int:
        """M, the number of mel bands that the encoder reads."""
        return int(self.tower.conv1.in_channels)

    def out_len(self, length: Length) -> Length:
        """Encoder frames that ``length`` mel frames give: ``(L - 1) // 2 + 1``."""
        return (length - 1) // 2 + 1

    def forward(self, mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode log-mel frames [B, M, L] of clips with so many frames [B]. Returns frames [B, E,
        D] in the encoder's dtype, zero beyond each clip, and their lengths [B]."""
        out_lengths = self.out_len(lengths)
        mel = mel.to(self.tower.conv1.weight.dtype)
        tight = self.padding == "tight"
        real = length_mask(lengths, mel.shape[-1]).unsqueeze(1) if tight else 1  # [B, 1, L]
        x = gelu(self.tower.conv1(mel * real))
        x = gelu(self.tower.conv2(x * real)).transpose(1, 2)  # [B, E, D]
        mask = length_mask(out_lengths, x.shape[1])  # [B, E]
        if tight:
            x = self._layers(x * mask.unsqueeze(-1), self._attention_mask(mask))
        else:
            x = self._layers(x, None)
        return x * mask.unsqueeze(-1), out_lengths

    def _layers(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Frames [B, E, D] through the layers, with an attention mask."""
        raise NotImplementedError

    def _attention_mask(self, mask: Tensor) -> Tensor:
        """Key padding mask [B, E] in the form that the attention implementation reads."""
        if self.attn_implementation.startswith("flash"):
            return mask.int()  # the kernel drops the padding itself
        # A clip without a single frame would softmax over nothing and give NaN; let it see its
        # first (zeroed) frame. Its output is zeroed anyway.
        keys = mask.clone()
        keys[:, 0] = True
        return keys[:, None, None, :]  # [B, 1, 1, E]


class GlmEncoder(AudioEncoder):
    """GLM-ASR's audio tower: rotary positions, no limit of length. In transformers 5.17 its layers
    drop the mask they are given but pass on unknown keywords, so the mask travels under a name of
    its own, to an attention function of ours that hands it to transformers' own."""

    def __init__(self, tower: PreTrainedModel, padding: str) -> None:
        super().__init__(tower, padding)
        tower.config._attn_implementation = _KEY_MASK + self.attn_implementation

    def _layers(self, x: Tensor, mask: Tensor | None) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
        rotary = self.tower.rotary_emb(x, position_ids=positions)
        for layer in self.tower.layers:
            x = layer(x, position_embeddings=rotary, key_mask=mask)
        return cast(Tensor, self.tower.norm(x))


class WhisperStyleEncoder(AudioEncoder):
    """Whisper's encoder: a table of 1,500 positions, 30 s."""

    def _layers(self, x: Tensor, mask: Tensor | None) -> Tensor:
        positions = self.tower.embed_positions.weight
        if x.shape[1] > len(positions):
            raise ModelError(
                f"encoder: a clip gives {x.shape[1]} frames, but this encoder has positions for "
                f"{len(positions)}; split it or set data.max_seconds lower"
            )
        x = x + positions[: x.shape[1]]
        for layer in self.tower.layers:
            x = layer(x, attention_mask=mask)
        return cast(Tensor, self.tower.layer_norm(x))


def encode_batch(encoder: AudioEncoder, mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """``encoder(mel, lengths)``, computed on a CPU in pieces that stay in its cache. Each piece is
    cut to its own longest clip, so that less padding is computed, too."""
    if mel.device.type != "cpu" or mel.shape[-1] * len(mel) <= _CACHED_FRAMES:
        return cast(tuple[Tensor, Tensor], encoder(mel, lengths))
    sizes = (len(mel), encoder.out_len(mel.shape[-1]), encoder.width)
    frames = mel.new_zeros(sizes, dtype=encoder.tower.conv1.weight.dtype)
    first = 0
    while first < len(mel):
        longest, last = 1, first
        while last < len(mel):
            reach = max(longest, int(lengths[last]))
            if last > first and reach * (last + 1 - first) > _CACHED_FRAMES:
                break
            longest, last = reach, last + 1
        width = mel.shape[-1] if encoder.padding == "native" else longest
        piece, _ = encoder(mel[first:last, :, :width], lengths[first:last])
        frames[first:last, : piece.shape[1]] = piece
        first = last
    return frames, encoder.out_len(lengths)


def load_encoder(
    source: str,
    *,
    revision: str | None,
    padding: str,
    attn_implementation: str,
    dtype: torch.dtype,
    device: torch.device,
) -> AudioEncoder:
    """Load the frozen encoder of a hub id or folder; other parts of it are never read. Raises
    HubError: it cannot be fetched; ModelError: not such a checkpoint, tensors missing or of another
    shape."""
    path = snapshot(source, revision, files=SMALL_FILES) / "config.json"
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{source}: has no file 'config.json'; it is no model") from None
    except ValueError as error:
        raise ModelError(f"{path}: is damaged ({error}); delete it and run again") from None
    with torch.device("meta"):
        tower = _tower(raw, source, attn_implementation)
    marker = _MARKERS[raw["model_type"]]
    state = read_matching(find_tensors(source, revision, marker), marker, source)
    check_tensors(tower.state_dict(), state, f"{source}: the encoder", ModelError)
    if hasattr(tower, "rotary_emb"):  # computed, not stored: made again off the meta device
        tower.rotary_emb = type(tower.rotary_emb)(tower.config)
    # The weights alone: rotary frequencies in bf16 would be off by a radian at 30 s.
    state = {key: value.to(dtype) for key, value in state.items()}
    tower.load_state_dict(state, strict=True, assign=True)
    return _wrap(tower.to(device), padding)


def random_encoder(
    architecture: Mapping[str, Any],
    *,
    padding: str,
    attn_implementation: str,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
) -> AudioEncoder:
    """Build an encoder with random weights, the same for the same seed; downloads nothing."""
    tower = random_module(
        lambda: _tower(architecture, "model.encoder.architecture", attn_implementation),
        *(seed, dtype, device),
    )
    return _wrap(tower, padding)


def _wrap(tower: PreTrainedModel, padding: str) -> AudioEncoder:
    encoder = GlmEncoder if isinstance(tower, GlmAsrEncoder) else WhisperStyleEncoder
    return encoder(tower, padding).requires_grad_(False).eval()


def _tower(raw: Mapping[str, Any], where: str, attn_implementation: str) -> Any:
    """Build an encoder by its configuration, wherever a checkpoint's config.json keeps it."""
    values = dict(raw)
    kind = values.pop("model_type", "")
    if kind not in _MARKERS:
        raise ModelError(
            f"{where}: model_type '{kind}' is not glmasr or whisper; use such an encoder"
        )
    if kind == "glmasr":
        values = values.get("audio_config", {})
    whisper = kind == "whisper"
    config: Any = WhisperConfig(**values) if whisper else GlmAsrEncoderConfig(**values)
    config._attn_implementation = attn_implementation
    return WhisperEncoder(config) if whisper else GlmAsrEncoder(config)


def _with_key_mask(kind: str, *args: Any, key_mask: Tensor | None = None, **kwargs: Any) -> Any:
    """transformers' attention function of that kind, with the mask that came under another name."""
    return ALL_ATTENTION_FUNCTIONS[kind](*args, **kwargs | {"attention_mask": key_mask})


for _kind in ATTENTION:
    AttentionInterface.register(_KEY_MASK + _kind, partial(_with_key_mask, _kind))
