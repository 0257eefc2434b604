"""Decoder and projector learn together on the frozen encoder, without unlearning to spell.

Each step is a batch of heard speech, from the house's own stream, and noisy turns of the decoder's
stage beside it: on speech alone the decoder learns one projector's language and forgets to read
stretched and misspelt tokens, which every other projector begins with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from recipes.nano.decoder import check, make_turns
from recipes.nano.figures import Log, Saved, rate
from recipes.nano.pair import turn_loss
from recipes.nano.text import Vocabulary
from recipes.nano.turns import Turns, soft_audio
from tiny_audio.config import Config
from tiny_audio.model.build import ASSETS
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.components import (
    find_augmentation,
    find_data,
    make_model,
    make_stream,
)
from tiny_audio.train.distributed import open_accelerator
from tiny_audio.train.stages import apply_learns

TURNS = {"rows": 8, "everyday": 60_000, "most": 150_000}  # noisy turns a step, and phrases of them
WEIGHT = 0.5  # of the noisy turns' loss
PEAK = {"projector": 1e-3, "decoder": 5e-4}  # learning rates
SAVE_S = 120.0


def learn_together(cfg: Config, work: Path, start: Path | None, steps: int) -> SpeechModel:
    """Train for `steps`, saved now and then in `work`; the model with what it learned.

    Args:
        cfg: model, data and budgets, as for the house's own loop.
        work: folder of logs, saves and `phrases-*.txt`; a stopped run goes on from its last save.
        start: checkpoint to begin from; None: the pair's decoder and a new projector.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(cfg.seed)
    accelerator = open_accelerator(cfg.device, cfg.training.precision, cfg.output_dir)
    model = make_model(cfg, device, start)
    apply_learns(model, ["projector", "decoder"])
    stream = make_stream(cfg, find_data(cfg)[0], find_augmentation(cfg), model, accelerator)
    vocabulary = Vocabulary(ASSETS / "nano" / "decoder")
    turns, judge = make_turns(work, vocabulary, TURNS["everyday"], TURNS["most"], device)
    parts = {"projector": model.projector, "decoder": model.causal_lm}
    optimizer = torch.optim.AdamW(
        [{"params": list(part.parameters()), "name": name} for name, part in parts.items()],
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )
    saved = Saved(work / "together.pt", SAVE_S, optimizer=optimizer, stream=stream, **parts)
    first = saved.load(0)
    log = Log(work / "logs" / "together.jsonl")
    batches = iter(stream)
    for step in range(first, steps):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = PEAK[group["name"]] * rate(step / steps, warm=0.02, hold=0.3)
        found = model.loss(next(batches).to(device))
        heard = found.total / found.n_tokens
        spelt = _turn_loss(model.causal_lm, vocabulary, turns)
        optimizer.zero_grad()
        (heard + WEIGHT * spelt).backward()
        for part in parts.values():
            nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 20 == 0:
            log(step=step + 1, heard=heard.item(), spelt=spelt.item())
        saved.save(step + 1, now=step + 1 == steps)
    log(event="end", step=steps, **check(model.causal_lm, judge, 400))
    return model.eval()


def _turn_loss(decoder: Any, vocabulary: Vocabulary, turns: Turns) -> torch.Tensor:
    ids, weights, lengths, *clean = turns.batch(TURNS["rows"], 1.0, 0.6)
    soft = soft_audio(decoder.get_input_embeddings(), ids, weights, 0.5)
    return turn_loss(decoder, vocabulary, soft, lengths, *clean)
