"""The frozen audio encoder: log-mel frames in, one vector for every two frames out.

GLM-ASR's audio tower and Whisper's encoder share their shape: two convolutions (the second halves
the frame rate), then transformer layers, then a norm. They differ in how position is told:
rotary embeddings in every layer against a table added once.

Both were trained on clips zero-padded to 30 s. ``tight`` computes on the clip alone: what lies
beyond it is zeroed before, between and after the convolutions and hidden from attention by a key
padding mask, so that a clip gives the same frames alone and in any batch. ``native`` repeats what
the checkpoints saw in training: the whole window, no mask.

Shapes: B utterances, M mel bands, L mel frames, E encoder frames, D encoder width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.glmasr.modeling_glmasr import eager_attention_forward

from tiny_audio.errors import ConfigError, ModelError
from tiny_audio.model.packing import PACKED, Packing

Length = TypeVar("Length", int, Tensor)

PADDINGS = ("tight", "native")
_CACHED_FRAMES = 1_200  # mel frames (12 s) whose activations fit a core's cache: measured


class AudioEncoder(nn.Module):
    """Base of the two-convolution encoders; subclasses run the layers.

    Args:
        tower: transformers' ``GlmAsrEncoder`` or ``WhisperEncoder``.
        padding: ``tight`` or ``native``, see the module's text.
    """

    _mask_word = "attention_mask"  # the name under which layers take a key padding mask

    def __init__(self, tower: PreTrainedModel, padding: str) -> None:
        super().__init__()
        if padding not in PADDINGS:
            raise ConfigError(
                f"model.encoder.padding: '{padding}' is unknown; use one of {list(PADDINGS)}"
            )
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

    @property
    def max_frames(self) -> int | None:
        """The most encoder frames that the encoder has positions for; None: no limit."""
        return None

    def out_len(self, length: Length) -> Length:
        """Encoder frames that ``length`` mel frames give: ``(L - 1) // 2 + 1``."""
        return (length - 1) // 2 + 1

    def forward(self, mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode log-mel frames.

        Args:
            mel: [B, M, L]; for ``tight`` what lies beyond a length does not matter.
            lengths: [B] mel frames of each clip.

        Returns:
            frames [B, E, D] in the encoder's dtype, zero beyond each clip, and their lengths [B].
        """
        out_lengths = self.out_len(lengths)
        mel = mel.to(self.tower.conv1.weight.dtype)
        tight = self.padding == "tight"
        inside = _inside(lengths, mel.shape[-1]).unsqueeze(1)  # [B, 1, L]
        x = mel * inside if tight else mel
        x = gelu(self.tower.conv1(x))
        x = gelu(self.tower.conv2(x * inside if tight else x))  # [B, D, E]
        x = x.transpose(1, 2)  # [B, E, D]
        self._check_positions(x.shape[1])
        kept = _inside(out_lengths, x.shape[1])  # [B, E]
        if tight and self.attn_implementation == PACKED:
            packing = Packing.of(out_lengths.tolist(), x.shape[1], x.device)
            x = self._layers(packing.pack(x), packing.position_ids, {"packing": packing})
            return packing.unpack(x), out_lengths
        places = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
        words = {self._mask_word: self._attention_mask(kept, x.dtype)} if tight else {}
        x = self._layers(x * kept.unsqueeze(-1) if tight else x, places, words)
        return x * kept.unsqueeze(-1), out_lengths

    def _layers(self, x: Tensor, places: Tensor, words: dict[str, Any]) -> Tensor:
        """Frames [B, E, D] at ``places`` [1, E] through the layers, which are given ``words``."""
        raise NotImplementedError

    def _attention_mask(self, kept: Tensor, dtype: torch.dtype) -> Tensor:
        """Key padding mask in the form that the attention implementation reads."""
        kind = self.attn_implementation
        if kind.startswith("flash"):
            return kept.int()  # [B, E]; the kernel drops the padding itself
        # A clip without a single frame would softmax over nothing and give NaN; let it see its
        # first (zeroed) frame. Its output is zeroed anyway.
        keys = kept.clone()
        keys[:, 0] = True
        keys = keys[:, None, None, :]  # [B, 1, 1, E]
        if kind == "eager":
            hidden = torch.finfo(dtype).min
            return torch.zeros_like(keys, dtype=dtype).masked_fill(~keys, hidden)
        return keys

    def _check_positions(self, frames: int) -> None:
        if self.max_frames is not None and frames > self.max_frames:
            raise ModelError(
                f"encoder: a clip gives {frames} frames, but this encoder has positions for "
                f"{self.max_frames}; split it or set data.max_seconds lower"
            )


def encode_batch(encoder: AudioEncoder, mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """``encoder(mel, lengths)``, computed on a CPU in pieces that stay in its cache.

    Each piece is cut to its own longest clip, so that less padding is computed, too.
    """
    room = _CACHED_FRAMES // max(1, mel.shape[-1])
    if mel.device.type != "cpu" or room >= len(mel):
        encoded: tuple[Tensor, Tensor] = encoder(mel, lengths)
        return encoded
    out_lengths = encoder.out_len(lengths)
    frames = mel.new_zeros(
        (len(mel), encoder.out_len(mel.shape[-1]), encoder.width),
        dtype=encoder.tower.conv1.weight.dtype,
    )
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
    return frames, out_lengths


class GlmEncoder(AudioEncoder):
    """GLM-ASR's audio tower: rotary positions, no limit of length.

    In transformers 5.17 its layers tell their attention that there is no mask, whatever they are
    given. Words they do not know they pass on in every version, so the mask travels under
    a name of its own, to an attention function of ours that hands it to transformers' own.
    """

    _mask_word = "key_mask"

    def __init__(self, tower: PreTrainedModel, padding: str) -> None:
        super().__init__(tower, padding)
        tower.config._attn_implementation = _OURS + self.attn_implementation

    def _layers(self, x: Tensor, places: Tensor, words: dict[str, Any]) -> Tensor:
        rotary = self.tower.rotary_emb(x, position_ids=places)
        for layer in self.tower.layers:
            x = layer(x, position_embeddings=rotary, **words)
        out: Tensor = self.tower.norm(x)
        return out


class WhisperStyleEncoder(AudioEncoder):
    """Whisper's encoder: a table of 1,500 positions, 30 s."""

    @property
    def max_frames(self) -> int | None:
        return int(self.tower.embed_positions.num_embeddings)

    def _layers(self, x: Tensor, places: Tensor, words: dict[str, Any]) -> Tensor:
        x = x + self.tower.embed_positions.weight[places]
        for layer in self.tower.layers:
            x = layer(x, **{"attention_mask": None, **words})
        out: Tensor = self.tower.layer_norm(x)
        return out


def _inside(lengths: Tensor, size: int) -> Tensor:
    """[B, size] True where a position lies inside its clip."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


_OURS = "key_mask_"  # before the name of an attention implementation: takes `key_mask` as well


def _taking_key_mask(kind: str) -> Callable[..., Any]:
    """transformers' attention function of that kind, with its mask under another name."""

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        **rest: Any,
    ) -> Any:
        function = ALL_ATTENTION_FUNCTIONS.get_interface(kind, eager_attention_forward)
        mask = attention_mask if key_mask is None else key_mask
        return function(module, query, key, value, attention_mask=mask, **rest)

    return attend


for _kind in ("sdpa", "eager", "flash_attention_2", PACKED):
    AttentionInterface.register(_OURS + _kind, _taking_key_mask(_kind))
