"""Stage 3: train the encoder with CTC on synthetic and real speech (the heads are thrown away).

It runs for a number of minutes, reads new shards while it trains, and resumes from its last save.
"""

import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.nano.batches import Speech, judging_batches
from recipes.nano.figures import Log, Saved, rate, word_error_rate
from recipes.nano.pair import new_encoder, new_features, save_encoder, spell
from recipes.nano.pool import RATE, Rows
from recipes.nano.text import Vocabulary

SAVE_S, READ_S = 60.0, 15.0  # between saves, and between looks for new shards
OUT_OF_PLATEAU = 3.6  # loss


class Trainee(nn.Module):
    """Encoder with CTC heads after the middle and the last layer."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.encoder = new_encoder()
        width, layers = self.encoder.width, self.encoder.tower.layers
        layers[len(layers) // 2 - 1].register_forward_hook(self._keep_half)
        self.half_norm = nn.LayerNorm(width)
        self.half_head = nn.Linear(width, vocabulary.size)
        self.head = nn.Linear(width, vocabulary.size)
        self.blank = vocabulary.blank

    def _keep_half(self, layer: nn.Module, args: object, frames: Tensor) -> None:
        self.half = frames

    def loss(self, mel: Tensor, lengths: Tensor, ids: list[list[int]]) -> Tensor:
        """Mean CTC loss per token of both heads, weighted 0.7 and 0.3."""
        frames, lengths = self.encoder(mel, lengths)
        sizes = lengths.cpu()
        targets = torch.from_numpy(np.fromiter((t for row in ids for t in row), np.int64)).to(
            mel.device
        )
        counts = torch.tensor([len(row) for row in ids])
        total = frames.new_zeros((), dtype=torch.float32)
        for head, hidden, weight in (
            (self.head, frames, 0.7),
            (self.half_head, self.half_norm(self.half), 0.3),
        ):
            log_probs = head(hidden).float().log_softmax(-1).transpose(0, 1)
            loss = functional.ctc_loss(
                log_probs, targets, sizes, counts, self.blank, "sum", zero_infinity=True
            )
            total = total + weight * loss
        return total / int(counts.sum())


def evaluate(
    model: Trainee, features: nn.Module, sets: dict[str, list[Rows]], v: Vocabulary
) -> dict[str, float]:
    """WER of greedy CTC on each set."""
    figures = {}
    model.eval()
    with torch.no_grad():
        for name, batches in ((name, batches) for name, batches in sets.items() if batches):
            references, hypotheses = [], []
            for rows in batches:
                frames, sizes = model.encoder(*features(rows.wave, rows.lengths))
                hypotheses += spell(model.head(frames), sizes, v)
                references += rows.texts
            figures[name] = word_error_rate(references, hypotheses)
    model.train()
    return figures


def train(
    speech: Speech, minutes: float, *, seconds: float, real: float, peak: float,
    least_hours: float, judged: int, every: int,
) -> None:  # fmt: skip
    """Train for `minutes` (kept across restarts) and write work/encoder, unless it is there.

    While everything is heard as blank, utterances are short and clean; then the augmentation grows
    over a tenth of the minutes.
    """
    folder = speech.work
    if (folder / "encoder" / "preprocessor_config.json").exists():
        return
    torch.manual_seed(0)
    v, device = speech.test.vocabulary, speech.device
    log = Log(speech.work / "logs" / "encoder.jsonl")
    model = Trainee(v).to(device)
    features = new_features(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.02,
        fused=device.type == "cuda",
    )  # fmt: skip
    saved = Saved(folder / "encoder_state.pt", SAVE_S, model=model, optimizer=optimizer)
    # Updates, seconds spent, hours heard, and the share that was done as it left the plateau.
    step, spent, heard, left = saved.load((0, 0.0, 0.0, None))
    speech.refresh(least_hours)
    augment = speech.augment()
    log(event="start", parameters=sum(p.numel() for p in model.encoder.parameters()),
        hours=speech.synthetic.hours, real_hours=speech.real.hours, step=step)  # fmt: skip
    sets = {
        "wer_synthetic": judging_batches(speech.test, judged),
        "wer_real": judging_batches(speech.held_out, judged),
    }
    last = read = time.monotonic()
    while (done := spent / (minutes * 60)) < 1:
        strength = 0.0 if left is None else min(1.0, (done - left) / 0.10)
        short = left is None or done - left < 0.015
        rows = speech.batch(seconds, real, 0.14 * strength, short)
        with torch.no_grad():
            wave = augment.wave(rows.wave, rows.lengths, strength)
            mel, lengths = features(wave, rows.lengths)
            if strength:
                mel, lengths = augment.warp(mel, lengths, strength)
                mel = augment.mask(mel, lengths, strength)
        for group in optimizer.param_groups:
            group["lr"] = peak * rate(done)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = model.loss(mel, lengths, rows.ids)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, heard = step + 1, heard + rows.wave.numel() / RATE / 3600
        if step % 20 == 0:
            if left is None and loss.item() < OUT_OF_PLATEAU:
                left = done
            if step % 100 == 0 or step < 100:
                log(step=step, loss=loss.item(), heard_h=heard, pool_h=speech.synthetic.hours,
                    strength=strength, done=done)  # fmt: skip
        now = time.monotonic()
        spent, last = spent + now - last, now
        if step % every == 0:
            log(step=step, **evaluate(model, features, sets, v))
        if now - read > READ_S:
            speech.refresh(0.0)
            read = now
        saved.save((step, spent, heard, left))
    log(event="end", step=step, heard_h=heard, pool_h=speech.synthetic.hours,
        **evaluate(model, features, sets, v))  # fmt: skip
    save_encoder(model.encoder.tower, folder / "encoder")
