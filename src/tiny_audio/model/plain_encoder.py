"""A plain path for any other transformers audio encoder, for example wav2vec2, HuBERT, WavLM.

Nothing is assumed about it but that AutoModel and AutoFeatureExtractor load it and that its
output is one sequence of frames. Clips go through it one at a time, so that padding cannot change
an answer; that is slow, and the two-convolution encoders have a path of their own.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedModel

from tiny_audio.errors import ModelError


class PlainEncoder(nn.Module):
    """Any audio encoder of transformers, fed with waveforms.

    Args:
        tower: the encoder (for an encoder-decoder model, its encoder).
        extractor: its feature extractor, 16 kHz.
    """

    padding = "native"

    def __init__(self, tower: PreTrainedModel, extractor: Any) -> None:
        super().__init__()
        if getattr(extractor, "sampling_rate", 16_000) != 16_000:
            raise ModelError(f"encoder: reads {extractor.sampling_rate} Hz audio, not 16000 Hz")
        self.tower: Any = tower
        self.extractor = extractor
        with torch.device("meta"):
            self._shadow = [type(tower)(tower.config)]  # in a list: not a part of this module
        self._shadow[0].eval()
        self._frames = lru_cache(maxsize=65_536)(self._count_frames)

    @classmethod
    def load(
        cls, folder: Path, source: str, *, dtype: torch.dtype, device: torch.device
    ) -> PlainEncoder:
        """Load the checkpoint in a folder. Raises ModelError where transformers cannot."""
        try:
            config = AutoConfig.from_pretrained(folder)
            extractor = AutoFeatureExtractor.from_pretrained(folder)
            model = AutoModel.from_pretrained(folder, config=config, dtype=dtype)
        except (OSError, ValueError, SafetensorError) as error:
            first = str(error).strip().splitlines()[0]
            raise ModelError(f"{source}: is not an audio encoder that loads: {first}") from None
        tower = model.get_encoder() if config.is_encoder_decoder else model
        encoder = cls(tower.to(device), extractor)
        encoder.requires_grad_(False)
        return encoder.eval()

    @property
    def width(self) -> int:
        """D, the size of one encoder frame."""
        return int(self.tower.config.hidden_size)

    def out_len(self, samples: int | Tensor) -> Any:
        """Encoder frames of a clip of so many samples, read off the encoder's own shapes."""
        if isinstance(samples, Tensor):
            counts = [self._frames(int(n)) for n in samples.flatten().tolist()]
            return torch.tensor(counts, device=samples.device).reshape(samples.shape)
        return self._frames(int(samples))

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode waveforms [B, S] to frames [B, E, D], zero beyond each clip, and lengths [B]."""
        frames = []
        for clip, length in zip(waveform, lengths.tolist(), strict=True):
            inputs = self._features(clip[:length].float().cpu().numpy())
            placed = {
                key: value.to(
                    waveform.device, self.tower.dtype if value.is_floating_point() else None
                )
                for key, value in inputs.items()
            }
            frames.append(self.tower(**placed).last_hidden_state[0])
        counts = torch.tensor([len(f) for f in frames], device=waveform.device)
        return pad_sequence(frames, batch_first=True), counts

    def _features(self, clip: np.ndarray) -> dict[str, Tensor]:
        return cast(
            dict[str, Tensor],
            dict(self.extractor(clip, sampling_rate=16_000, return_tensors="pt")),
        )

    @torch.no_grad()
    def _count_frames(self, samples: int) -> int:
        """Run shapes alone, on the meta device: no arithmetic is done."""
        inputs = self._features(np.zeros(samples, dtype=np.float32))
        meta = {key: value.to("meta") for key, value in inputs.items()}
        try:
            return int(self._shadow[0](**meta).last_hidden_state.shape[1])
        except (RuntimeError, ValueError):
            return 0  # shorter than the encoder's first window
