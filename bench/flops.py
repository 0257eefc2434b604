"""Operations that an utterance needs: matrix products and attention, two for each multiply-add.

Only what its own frames and tokens need is counted: padding, logits that nobody reads and
recomputation are work, not progress. Element-wise operations (below one percent) are left out.

L mel frames, E encoder frames, A audio tokens, T decoder tokens, N tokens with a label.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from bench.load import spoken_tokens
from tiny_audio.data.records import Utterance
from tiny_audio.model.decoder import embedding_table
from tiny_audio.model.speech import SpeechModel


class Flops:
    """Counts the operations of one model.

    Args:
        model: GLM-ASR or Whisper style encoder, MLP projector, decoder without adapters.
    """

    def __init__(self, model: SpeechModel) -> None:
        self.model = model
        tower: Any = model.encoder.tower
        lm: Any = model.causal_lm
        config = lm.config
        self._conv_1: int = tower.conv1.weight.numel()
        self._conv_2: int = tower.conv2.weight.numel()
        self._encoder = _linear_weights(tower.layers)
        self._encoder_attention: int = len(tower.layers) * tower.conv1.out_channels
        self._projector = [_linear_weights(m) for m in model.projector.children()]
        self._decoder = _linear_weights(lm.base_model.layers)
        self._decoder_attention: int = (
            config.num_hidden_layers * config.num_attention_heads * config.head_dim
        )
        self._head = embedding_table(lm).numel()

    def encoder(self, samples: int) -> float:
        """Convolutions and layers, once forward."""
        mel = self.model.features.out_len(samples)
        frames = (mel - 1) // 2 + 1
        linear = self._conv_1 * mel + (self._conv_2 + self._encoder) * frames
        return 2.0 * linear + 4.0 * self._encoder_attention * frames**2

    def training(self, utterance: Utterance) -> float:
        """Encoder forward; projector forward and backward; decoder and head forward and the
        gradient of their inputs, since their weights are frozen."""
        samples, text_tokens = len(utterance.waveform), len(utterance.text) + 1
        audio = self.model.audio_tokens(samples)
        tokens = self.model.prompt.fixed_length + audio + text_tokens
        projector = audio * (6.0 * sum(self._projector) - 2.0 * self._projector[0])
        # Causal attention sees half of the square; its backward is twice its forward.
        decoder = 4.0 * self._decoder * tokens + 6.0 * self._decoder_attention * tokens**2
        return self.encoder(samples) + projector + decoder + 4.0 * self._head * text_tokens

    def inference(self, utterance: Utterance) -> float:
        """Everything once forward; the head on the new tokens alone."""
        samples, new_tokens = len(utterance.waveform), spoken_tokens(utterance)
        audio = self.model.audio_tokens(samples)
        tokens = self.model.prompt.fixed_length + audio + new_tokens
        projector = 2.0 * sum(self._projector) * audio
        decoder = 2.0 * self._decoder * tokens + 2.0 * self._decoder_attention * tokens**2
        return self.encoder(samples) + projector + decoder + 2.0 * self._head * new_tokens


def _linear_weights(modules: nn.Module) -> int:
    return sum(m.weight.numel() for m in modules.modules() if isinstance(m, nn.Linear))
