"""Stage 3: train the encoder with CTC on synthetic and real speech (the heads are thrown away).

A leg runs for a number of minutes, reads new shards while it trains, and resumes from its last
save; the next leg starts from its weights with a fresh optimizer and schedule.
"""

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from recipes.nano.augment import Augment
from recipes.nano.batches import Speech, judging_batches
from recipes.nano.figures import Log, rate, word_error_rate
from recipes.nano.pair import new_encoder, new_features, save_encoder, spell
from recipes.nano.pool import RATE, Rows
from recipes.nano.text import Vocabulary


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

    def load(self, folder: Path) -> None:
        """Start from the encoder and the last layer's head that an earlier leg wrote."""
        weights = load_file(folder / "encoder" / "model.safetensors")
        self.encoder.tower.load_state_dict({name: x.float() for name, x in weights.items()})
        self.head.load_state_dict(torch.load(folder / "ctc.pt", map_location="cpu")["head"])

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
        for name, batches in sets.items():
            references, hypotheses = [], []
            for rows in batches:
                frames, sizes = model.encoder(*features(rows.wave, rows.lengths))
                hypotheses += spell(model.head(frames), sizes, v)
                references += rows.texts
            figures[name] = word_error_rate(references, hypotheses)
    model.train()
    return figures


@dataclass
class Place:
    """Where a leg is: updates, seconds spent, hours heard, and when it left the blank plateau."""

    step: int = 0
    spent: float = 0.0
    heard: float = 0.0
    out: float = -1.0  # share of the leg that was over; negative: not yet

    def difficulty(self, done: float) -> tuple[float, bool]:
        """Strength of the augmentation, and whether to keep to short utterances.

        While everything is heard as blank they are short and clean; then it grows over a tenth.
        """
        if self.out < 0:
            return 0.0, True
        return min(1.0, (done - self.out) / 0.10), done - self.out < 0.015


class Leg:
    """A model in training, its place, and the file to resume from."""

    SAVE_S, READ_S = 60.0, 15.0  # between saves, and between looks for new shards
    OUT_OF_PLATEAU = 3.6  # loss

    def __init__(self, folder: Path, speech: Speech, start: Path | None, peak: float) -> None:
        self.speech, self.peak, self.device = speech, peak, speech.device
        device = self.device
        self.saved = folder / "encoder_state.pt"
        self.model = Trainee(speech.test.vocabulary)
        if start is not None:
            self.model.load(start)
        self.model.to(device)
        self.features = new_features(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.02,
            fused=device.type == "cuda",
        )  # fmt: skip
        self.place = Place()
        if self.saved.exists():
            state = torch.load(self.saved, map_location=device)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.place = Place(**state["place"])

    def save(self) -> None:
        """Write everything needed to go on; whole at any moment."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "place": asdict(self.place)}, f"{self.saved}.part")
        os.replace(f"{self.saved}.part", self.saved)

    def update(
        self, augment: Augment, done: float, seconds: float, real: float
    ) -> tuple[Tensor, float]:
        """One batch, one step of the optimizer; the loss and the augmentation's strength."""
        strength, short = self.place.difficulty(done)
        rows = self.speech.batch(seconds, real, 0.14 * strength, short)
        with torch.no_grad():
            wave = augment.wave(rows.wave, rows.lengths, strength)
            mel, lengths = self.features(wave, rows.lengths)
            if strength:
                mel, lengths = augment.warp(mel, lengths, strength)
                mel = augment.mask(mel, lengths, strength)
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * rate(done)
        kind = self.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            loss = self.model.loss(mel, lengths, rows.ids)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.place.step += 1
        self.place.heard += rows.wave.numel() / RATE / 3600
        return loss.detach(), strength


def train(
    folder: Path, speech: Speech, minutes: float, *, start: Path | None, seconds: float,
    real: float, peak: float, least_hours: float, judged: int, every: int,
) -> None:  # fmt: skip
    """Train one leg of `minutes` (kept across restarts); writes folder/encoder and folder/ctc.pt.

    `start` is the folder of an earlier leg, None for fresh weights.
    """
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    v = speech.test.vocabulary
    log = Log(speech.work / "logs" / "encoder.jsonl")
    leg = Leg(folder, speech, start, peak)
    model, place = leg.model, leg.place
    speech.refresh(least_hours)
    augment = speech.augment()
    log(event="start", parameters=sum(p.numel() for p in model.encoder.parameters()),
        hours=speech.synthetic.hours, real_hours=speech.real.hours, step=place.step,
        weights=start and str(start))  # fmt: skip
    sets = {
        "synthetic": judging_batches(speech.test, judged),
        "real": judging_batches(speech.held_out, judged),
    }
    sets = {name: batches for name, batches in sets.items() if batches}

    def judge() -> dict[str, float]:
        found = evaluate(model, leg.features, sets, v)
        return {f"wer_{name}": value for name, value in found.items()}

    last = saved = read = time.monotonic()
    while (done := place.spent / (minutes * 60)) < 1:
        loss, strength = leg.update(augment, done, seconds, real)
        if place.step % 20 == 0:
            if place.out < 0 and loss.item() < leg.OUT_OF_PLATEAU:
                place.out = done
            if place.step % 100 == 0 or place.step < 100:
                log(step=place.step, loss=loss.item(), heard_h=place.heard,
                    pool_h=speech.synthetic.hours, strength=strength, done=done)  # fmt: skip
        now = time.monotonic()
        place.spent, last = place.spent + now - last, now
        if place.step % every == 0:
            log(step=place.step, **judge())
        if now - read > leg.READ_S:
            speech.refresh(0.0)
            read = now
        if now - saved > leg.SAVE_S:
            leg.save()
            saved = now
    log(event="end", step=place.step, heard_h=place.heard, pool_h=speech.synthetic.hours,
        **judge())  # fmt: skip
    torch.save({"head": model.head.state_dict()}, folder / "ctc.pt")
    save_encoder(model.encoder.tower, folder / "encoder")
