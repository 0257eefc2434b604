"""Cross-entropy of a few positions over a large vocabulary, without its logits in memory.

With Qwen3's 151,936 words, logits and their gradient are the largest tensors of a training step.
The head is frozen, so all that its backward pass needs is the gradient of the hidden states, and
that is known once a piece of the logits is: they are made piece by piece and forgotten.

Shapes: B utterances, T tokens, N positions among the B * T, W decoder width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from tiny_audio.model.decoder import embedding_table
from tiny_audio.model.packing import Packing, packed_inputs

if TYPE_CHECKING:
    from tiny_audio.model.speech import Prefill

_ROOM = {"cpu": 2**27}  # bytes of one piece of logits in fp32, by device
_ROOM_ELSEWHERE = 2**30


def decoder_inputs(prefill: Prefill, masked: bool) -> dict[str, Any]:
    """What a decoder is called with for rows side by side; see ``hidden_at``."""
    inputs: dict[str, Any] = {"inputs_embeds": prefill.inputs_embeds, "use_cache": False}
    if masked:
        inputs |= {"attention_mask": prefill.attention_mask, "position_ids": prefill.position_ids}
    return inputs


def hidden_at(
    lm: PreTrainedModel,
    prefill: Prefill,
    places: Tensor,
    *,
    masked: bool,
    packing: Packing | None = None,
) -> Tensor:
    """The decoder's last hidden states [N, W] at the N ``places`` among the positions [B * T].

    Args:
        lm: the decoder without PEFT's wrapper.
        prefill: its input.
        places: [N].
        masked: with mask and positions; False for rows that are padded on the right.
        packing: of such rows; the layers see no padding then.
    """
    if packing is None:
        hidden = lm.base_model(**decoder_inputs(prefill, masked)).last_hidden_state  # [B, T, W]
    else:
        inputs = packed_inputs(packing.pack(prefill.inputs_embeds), packing)
        hidden = lm.base_model(**inputs).last_hidden_state  # [1, all, W]
        places = packing.find(places)
    return cast(Tensor, hidden.flatten(0, 1).index_select(0, places))


def summed_cross_entropy(hidden: Tensor, head: Any, targets: Tensor) -> Tensor:
    """Cross-entropy of ``head(hidden)``, summed over positions, in fp32.

    Args:
        hidden: [N, W].
        head: of the language model. A plain frozen matrix without bias goes piece by piece;
            another kind, or one that learns, is called as a whole.
        targets: [N] ids.
    """
    if type(head) is not nn.Linear or head.weight.requires_grad or _has_bias(head):
        return cross_entropy(head(hidden).float(), targets, reduction="sum")
    weight = head.weight
    room = _ROOM.get(hidden.device.type, _ROOM_ELSEWHERE)
    rows = max(1, room // (4 * len(weight)))
    pieces: Any = _Pieces.apply
    return cast(Tensor, pieces(hidden.to(weight.dtype), weight, targets, rows))


def _has_bias(head: Any) -> bool:
    return head.bias is not None


class _Pieces(torch.autograd.Function):
    """The sum, and in the same go the gradient of the hidden states."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if wanted else None
        for first in range(0, len(hidden), rows):
            part = slice(first, first + rows)
            right = targets[part].unsqueeze(1)
            logits = (hidden[part] @ weight.T).float()  # [n, V]
            norm = logits.logsumexp(dim=1, keepdim=True)
            total += (norm - logits.gather(1, right)).sum()
            if gradient is not None:
                chance = logits.sub_(norm).exp_()
                chance.scatter_add_(1, right, chance.new_full(right.shape, -1.0))
                gradient[part] = chance.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        scaled = None if gradient is None else (gradient * grads[0]).to(gradient.dtype)
        return scaled, None, None, None


@torch.no_grad()
def head_is_plain(lm: PreTrainedModel) -> bool:
    """Whether logits are the output embedding of the last hidden state and nothing more.

    Some families scale or cap their logits (Gemma 2, Granite); for those the loss must go
    through the whole model. Checked by running both on four tokens.
    """
    device = embedding_table(lm).device
    if device.type == "meta":
        return True  # a model without numbers
    ids = torch.arange(4, device=device).unsqueeze(0)
    hidden = lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
    head = lm.get_output_embeddings()
    return head is not None and torch.allclose(
        head(hidden).float(), lm(input_ids=ids, use_cache=False).logits.float(), atol=1e-3
    )
