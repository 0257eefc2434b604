"""One training step of each variant: what is switched on, and what that changes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from bench.load import Load
from bench.plain import Plain
from tiny_audio.model.batch import label_positions
from tiny_audio.model.speech import SpeechModel


@dataclass(frozen=True)
class Variant:
    """One row: what is switched on."""

    name: str
    plain: bool = False
    host_mel: str | None = None  # max_length | longest; None: the device makes it
    full_logits: bool = False
    budget: float | None = None  # seconds of padded audio; None: random batches of a fixed number
    cudnn: bool = True  # PyTorch's choice on Hopper and Blackwell: cuDNN's attention first
    autocast: bool = True  # around everything; False: each part in its own dtype
    padding_mask: bool = True  # for the decoder
    own_loss: bool = False  # the model's own, which makes logits in pieces
    compiled: str = ""  # layers of: encoder | both


class Step:
    """One optimizer step of a variant."""

    def __init__(self, model: SpeechModel, variant: Variant) -> None:
        self.model, self.variant = model, variant
        torch.backends.cuda.enable_cudnn_sdp(variant.cudnn)
        self.plain = Plain(model) if variant.plain else None
        self.cuda = model.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            model.projector.parameters(), lr=1e-5, fused=self.cuda or None
        )

    def __call__(self, load: Load) -> None:
        mixed = self.cuda and self.variant.autocast
        with torch.autocast("cuda", torch.bfloat16) if mixed else nullcontext():
            loss = self.loss(load)
        loss.backward()
        clip_grad_norm_(self.model.projector.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def loss(self, load: Load) -> Tensor:
        """Mean over label tokens."""
        if self.plain is not None:
            return self.plain.loss(load)
        model, batch = self.model, load.batch
        assert batch.labels is not None
        if self.variant.own_loss:
            loss = model.loss(batch)
            return loss.total / loss.n_tokens
        if load.features is None:
            tokens, _ = model.embed_audio(batch.waveform, batch.waveform_lengths)
        else:
            with torch.no_grad():
                lengths = model.features.out_len(batch.waveform_lengths)
                frames, lengths = model.encoder(load.features, lengths)
            tokens = model.projector(frames, lengths)
        prefill = model.splice(tokens, batch)
        if self.variant.full_logits:
            lm: Any = model.causal_lm
            out = lm(
                inputs_embeds=prefill.inputs_embeds,
                attention_mask=prefill.attention_mask,
                position_ids=prefill.position_ids,
                labels=batch.labels,
                use_cache=False,
            )
            return out.loss  # type: ignore[no-any-return]
        places = label_positions(batch.labels)
        logits = model.label_logits(prefill, places, masked=self.variant.padding_mask)
        return cross_entropy(logits.float(), batch.labels.flatten()[places + 1])
