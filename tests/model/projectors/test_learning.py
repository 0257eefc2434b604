"""Every projector learns a toy task: to spell, in order, symbols that its frames hold."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

D, W, SYMBOLS = 12, 20, 8


def test_learns_what_frames_say_and_in_which_order(kind, make):
    """Two frames a symbol, smeared over their neighbours as an encoder does; no absolute place.

    A projector blind to order would know the symbols of a window and still have to guess.
    """
    changes = {"window": 4, "queries": 2, "hidden": 32, "layers": 1}
    changes = {"qformer": changes, "glm": {"stride": 2}}.get(kind, {"stride": 2, "hidden": 32})
    projector = make(kind, **changes)
    head = nn.Linear(W, SYMBOLS)
    table, smear = torch.randn(SYMBOLS, D), torch.randn(D, D, 3) / (3 * D) ** 0.5
    parameters = [*projector.train().parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0)
    losses = []
    for _ in range(150):
        symbols = torch.randint(SYMBOLS, (8, 20))
        frames = table[symbols].repeat_interleave(2, 1)
        smeared = F.conv1d(frames.transpose(1, 2), smear, padding=1).transpose(1, 2)
        tokens = projector(F.layer_norm(frames + smeared, (D,)), torch.full((8,), 40))
        loss = F.cross_entropy(head(tokens / 0.03).flatten(0, 1), symbols.flatten())
        optimizer.zero_grad()
        (loss if projector.aux_loss is None else loss + projector.aux_loss).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5
    assert sum(losses[-10:]) / 10 < 0.2
