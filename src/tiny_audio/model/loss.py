"""Cross-entropy of a few positions over a large vocabulary, without its logits in memory.

With Qwen3's 151,936 tokens, logits and their gradient are the largest tensors of a training step.
Where they are many they are made piece by piece, forgotten, and made again for the gradient.
Shapes: N label positions, W decoder width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tiny_audio.model.decoder import embedding_table

_PIECE_BYTES = {"cpu": 2**27, "cuda": 2**29}  # of one piece of logits in fp32, by device


def summed_cross_entropy(hidden: Tensor, head: Any, targets: Tensor) -> Tensor:
    """Cross-entropy of ``head(hidden)``, of states [N, W], against ids [N], summed, in fp32."""

    def of_piece(states: Tensor, ids: Tensor) -> Tensor:
        return cross_entropy(head(states).float(), ids, reduction="sum")

    limit = _PIECE_BYTES.get(hidden.device.type, _PIECE_BYTES["cuda"])
    rows = max(1, limit // (4 * len(head.weight)))
    if len(hidden) <= rows:
        return of_piece(hidden, targets)
    pieces: list[Any] = [
        checkpoint(of_piece, *piece, use_reentrant=False, preserve_rng_state=False)
        for piece in zip(hidden.split(rows), targets.split(rows), strict=True)
    ]
    return torch.stack(pieces).sum()


@torch.no_grad()
def head_is_plain(lm: PreTrainedModel) -> bool:
    """Whether logits are the output embedding of the last hidden state and nothing more. Some
    families scale or cap their logits (Gemma 2, Granite); for those the loss must go through the
    whole model. Checked by running both on four tokens."""
    device = embedding_table(lm).device
    if device.type == "meta":
        return True  # a model without numbers
    ids = torch.arange(4, device=device).unsqueeze(0)
    hidden = lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
    head = lm.get_output_embeddings()
    return head is not None and torch.allclose(
        head(hidden).float(), lm(input_ids=ids, use_cache=False).logits.float(), atol=1e-3
    )
