"""Cross-entropy of a few positions over a large vocabulary, without its logits in memory.

With Qwen3's 151,936 tokens, logits and their gradient are the largest tensors of a training step.
The head is frozen, so its backward pass needs only the gradient of the hidden states, which is
known once a piece of the logits is: they are made piece by piece and forgotten.
Shapes: N label positions, W decoder width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from tiny_audio.model.decoder import embedding_table

_PIECE_BYTES = {"cpu": 2**27, "cuda": 2**30}  # of one piece of logits in fp32, by device


def summed_cross_entropy(hidden: Tensor, head: Any, targets: Tensor) -> Tensor:
    """Cross-entropy of ``head(hidden)`` against ids [N], summed over positions, in fp32. A plain
    frozen matrix without bias goes piece by piece; another head is called as a whole."""
    frozen_matrix = type(head) is nn.Linear and not head.weight.requires_grad
    if not frozen_matrix or getattr(head, "bias", None) is not None:
        return cross_entropy(head(hidden).float(), targets, reduction="sum")
    weight = head.weight
    limit = _PIECE_BYTES.get(hidden.device.type, _PIECE_BYTES["cuda"])
    rows = max(1, limit // (4 * len(weight)))
    pieces: Any = _Pieces.apply
    return cast(Tensor, pieces(hidden.to(weight.dtype), weight, targets, rows))


class _Pieces(torch.autograd.Function):
    """The sum, and in the same pass the gradient of the hidden states."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for first in range(0, len(hidden), rows):
            part = slice(first, first + rows)
            right = targets[part].unsqueeze(1)
            logits = (hidden[part] @ weight.T).float()  # [n, V]
            norm = logits.logsumexp(dim=1, keepdim=True)
            total += (norm - logits.gather(1, right)).sum()
            if gradient is not None:
                probabilities = logits.sub_(norm).exp_()
                probabilities.scatter_add_(1, right, probabilities.new_full(right.shape, -1.0))
                gradient[part] = probabilities.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        scaled = None if gradient is None else (gradient * grads[0]).to(gradient.dtype)
        return scaled, None, None, None


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
