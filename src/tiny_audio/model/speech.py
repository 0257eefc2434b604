"""The whole model: waveform in, text out.

    waveform ─► log-mel ─► encoder (frozen) ─► projector (learns) ─► decoder (frozen) ─► text

Shapes: B utterances, S samples, L mel frames, E encoder frames, A audio tokens, T tokens,
D encoder width, W decoder width, N label positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tiny_audio.audio.features import LogMel, SpecAugment
from tiny_audio.config import GenerationConfig
from tiny_audio.model.batch import Batch, Prefill, label_positions
from tiny_audio.model.encoder import AudioEncoder, encode_batch
from tiny_audio.model.generate import Decoding, Hypothesis, Watch
from tiny_audio.model.loss import head_is_plain, summed_cross_entropy
from tiny_audio.model.projectors.base import Length, Projector
from tiny_audio.text.prompt import Prompt


class Loss(NamedTuple):
    """Cross-entropy over the label tokens of a batch, not yet divided by their number."""

    total: Tensor  # what to backpropagate: ce_sum, and n_tokens times the projector's own loss
    ce_sum: Tensor  # summed over label tokens
    n_tokens: Tensor  # number of label tokens


class SpeechModel(nn.Module):
    """A frozen encoder and a frozen decoder (or PEFT's wrapper of it), joined by a projector.

    ``spec_augment`` masks the log-mel in training. Recordings longer than ``window_seconds`` are
    cut into spans; an encoder with ``native`` padding is padded to it.
    """

    def __init__(
        self,
        *,
        features: LogMel,
        encoder: AudioEncoder,
        projector: Projector,
        decoder: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        spec_augment: SpecAugment | None = None,
        window_seconds: float = 30.0,
    ) -> None:
        super().__init__()
        self.features, self.encoder, self.projector = features, encoder, projector
        self.decoder, self.tokenizer, self.prompt = decoder, tokenizer, prompt
        self.spec_augment = spec_augment
        self.window_seconds = window_seconds
        self.augment_generator: torch.Generator | None = None  # the RNG of spec_augment
        self.decoder_changed = False  # the decoder's own weights differ from its base
        self.identity: dict[str, Any] = {}  # another model's projector fits where this is equal
        self._head_is_plain = head_is_plain(self.causal_lm)

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The decoder without PEFT's wrapper; adapters, if any, are inside its layers."""
        unwrap = getattr(self.decoder, "get_base_model", None)
        return cast(PreTrainedModel, unwrap() if unwrap is not None else self.decoder)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.projector.parameters()).device

    def audio_tokens(self, samples: Length) -> Length:
        """Audio tokens A that a clip of so many samples gives; 0 where it is too short."""
        return self.projector.out_len(self.encoder.out_len(self.mel_frames(samples)))

    def mel_frames(self, samples: Length) -> Length:
        """Mel frames L of a clip; with ``native`` padding a hop that was begun counts as one, as in
        transformers' feature extractor."""
        if self.encoder.padding == "native":
            return -(-samples // self.features.hop)
        return self.features.out_len(samples)

    @property
    def audio_token_seconds(self) -> float:
        """How much audio an audio token stands for."""
        window = round(self.window_seconds * 16_000)
        return self.window_seconds / int(self.audio_tokens(window))

    def train(self, mode: bool = True) -> SpeechModel:
        """Switch to training; frozen parts stay in evaluation mode, so their dropout stays off."""
        super().train(mode)
        self.encoder.eval()
        self.decoder.train(mode and any(p.requires_grad for p in self.decoder.parameters()))
        return self

    @torch.no_grad()
    def encode(
        self, waveform: Tensor, lengths: Tensor, *, mask: Callable[..., Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Waveform [B, S] to encoder frames [B, E, D] and their lengths [B]; no gradient. ``mask``
        changes the log-mel [B, M, L] of clips with so many frames [B], in place of
        ``spec_augment``, which is for training alone."""
        if self.encoder.padding == "native":
            window = int(self.window_seconds * 16_000)
            mel = self.features.native(waveform, lengths, window)
            mel_lengths = self.mel_frames(lengths)
        else:
            mel, mel_lengths = self.features(waveform, lengths)
        if mask is not None:
            mel = mask(mel, mel_lengths)
        elif self.training and self.spec_augment is not None:
            mel = self.spec_augment(mel, mel_lengths, self.augment_generator)
        frames, frame_lengths = encode_batch(self.encoder, mel, mel_lengths)
        longest = int(self.encoder.out_len(self.mel_frames(waveform.shape[1])))
        return frames[:, :longest], frame_lengths  # native: only what the clips fill

    def embed_audio(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform [B, S] to audio tokens [B, A, W], zero beyond each clip, and lengths [B]."""
        frames, frame_lengths = self.encode(waveform, lengths)
        return self.projector(frames, frame_lengths), self.projector.out_len(frame_lengths)

    def prefill(self, batch: Batch) -> Prefill:
        """The decoder's input embeddings of a batch: prompt (and transcript) with audio in it."""
        if batch.frames is None or batch.frame_lengths is None:
            tokens, _ = self.embed_audio(batch.waveform, batch.waveform_lengths)
        else:
            tokens = self.projector(batch.frames, batch.frame_lengths)
        return self.splice(tokens, batch)

    def splice(self, tokens: Tensor, batch: Batch) -> Prefill:
        """Put the n-th of a row's audio tokens [B, A, W] where its n-th placeholder is. No position
        is looked up on the host, so nothing waits for the device."""
        embeds = self.causal_lm.get_input_embeddings()(batch.input_ids)  # [B, T, W]
        nth = (batch.audio_mask.cumsum(dim=1) - 1).clamp(min=0)  # [B, T]
        spread = tokens.to(embeds.dtype).gather(
            1, nth.unsqueeze(-1).expand(-1, -1, embeds.shape[-1])
        )
        embeds = torch.where(batch.audio_mask.unsqueeze(-1), spread, embeds)
        positions = (batch.attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        return Prefill(embeds, batch.attention_mask, positions)

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy of the transcript and its end token, given the audio; the LM head runs on
        label positions alone. The decoder gets no padding mask: padding is on the right, where
        causal attention never looks, and without a mask the fastest attention kernels apply."""
        if batch.labels is None:
            raise ValueError("a batch without labels has no loss")
        positions = batch.label_positions
        positions = label_positions(batch.labels) if positions is None else positions
        targets = batch.labels.flatten().index_select(0, positions + 1)  # [N]
        lm, inputs = self.causal_lm, {"inputs_embeds": self.prefill(batch).inputs_embeds}
        if self._head_is_plain:
            states = lm.base_model(**inputs, use_cache=False).last_hidden_state  # [B, T, W]
            hidden = states.flatten(0, 1).index_select(0, positions)  # [N, W]
            ce_sum = summed_cross_entropy(hidden, lm.get_output_embeddings(), targets)
        else:
            logits = lm(**inputs, use_cache=False).logits  # [B, T, V]
            logits = logits.flatten(0, 1).index_select(0, positions)  # [N, V]
            ce_sum = cross_entropy(logits.float(), targets, reduction="sum")
        n_tokens = ce_sum.new_tensor(len(positions), dtype=torch.long)
        aux = self.projector.aux_loss  # balance of experts, None where there are none
        return Loss(ce_sum if aux is None else ce_sum + aux * n_tokens, ce_sum, n_tokens)

    forward = loss  # what FSDP wraps

    @torch.no_grad()
    def generate(
        self,
        batch: Batch,
        options: GenerationConfig,
        *,
        attention: bool = False,
        watch: Watch | None = None,
    ) -> list[Hypothesis]:
        """Transcribe a left-padded batch; one hypothesis for each row, in order. ``attention``:
        with that of every token to the audio. ``watch``: see ``Decoding.generate``."""
        return self._decoding(batch, options, attention).generate(watch)

    @torch.no_grad()
    def stream(self, batch: Batch, options: GenerationConfig) -> Iterator[str]:
        """Transcribe a batch of one, yielding the text piece by piece as it is decoded."""
        if len(batch) != 1:
            raise ValueError(f"streaming decodes one utterance at a time, not {len(batch)}")
        yield from self._decoding(batch, options).stream()

    def _decoding(
        self, batch: Batch, options: GenerationConfig, attention: bool = False
    ) -> Decoding:
        """New tokens are capped in proportion to each row's audio, never below min_tokens."""
        lm, rate = self.causal_lm, options.tokens_per_second
        lengths = batch.waveform_lengths.tolist()
        caps = [max(options.min_tokens, math.ceil(n / 16_000 * rate)) for n in lengths]
        own = getattr(lm.generation_config, "eos_token_id", None)
        own = [own] if isinstance(own, int) else list(own or [])
        ends = [self.prompt.end_id, *sorted({*own} - {self.prompt.end_id})]
        return Decoding(
            lm,
            self.tokenizer,
            ends,
            self.prefill(batch),
            caps,
            options,
            batch.audio_mask,
            self.audio_token_seconds,
            attention,
        )
