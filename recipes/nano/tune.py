"""Optional stage: let the decoder hear the encoder, before the projector that ships is trained.

Decoder and projector learn together, the projector started anew several times, so that the
decoder suits any projector; some batches use the CTC posteriors' mix of embedding rows instead,
and half of them noisy turns beside it, so that it forgets no spelling. It only helps with an
encoder that is good already (see README.md).
"""

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from recipes.nano.augment import Augment
from recipes.nano.batches import Speech
from recipes.nano.decoder import check
from recipes.nano.figures import Log, rate
from recipes.nano.pair import (
    Projector,
    embedding_rms,
    encode,
    new_decoder,
    new_encoder,
    new_features,
    padded,
    turn_loss,
)
from recipes.nano.pool import Rows
from recipes.nano.text import Vocabulary
from recipes.nano.turns import Spellings, Turns, soft_audio


class Listener:
    """Frozen front half: a batch of rows to encoder frames, and to CTC posteriors."""

    def __init__(self, work: Path, v: Vocabulary, device: torch.device) -> None:
        self.device, self.v = device, v
        self.features = new_features(device)
        encoder: Any = new_encoder().eval().requires_grad_(False)
        weights = load_file(work / "encoder" / "model.safetensors")
        encoder.load_state_dict({name: x.float() for name, x in weights.items()})
        self.encoder = encoder.to(device)
        self.head = nn.Linear(encoder.config.hidden_size, v.size).to(device)
        self.head.load_state_dict(torch.load(work / "ctc.pt", map_location=device)["head"])
        self.head.requires_grad_(False)

    @torch.no_grad()
    def __call__(self, rows: Rows, augment: Augment, strength: float) -> tuple[Tensor, Tensor]:
        """Frames [B, E, D] of augmented rows, and their lengths [B]."""
        wave = augment.wave(rows.wave, rows.lengths, strength)
        mel, lengths = self.features(wave, rows.lengths)
        mel, lengths = augment.warp(mel, lengths, strength)
        mel = augment.mask(mel, lengths, 0.5 * strength)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            frames, lengths, _ = encode(self.encoder, mel, lengths)
        return frames.float(), lengths

    @torch.no_grad()
    def posterior_audio(
        self, frames: Tensor, lengths: Tensor, table: nn.Embedding
    ) -> tuple[Tensor, Tensor]:
        """Audio tokens [B, A, W]: embedding rows mixed by the CTC posteriors of two frames."""
        posterior = self.head(frames).softmax(-1)
        size = posterior.shape[1] // 2
        pairs = posterior[:, : size * 2].unflatten(1, (size, 2)).sum(2)
        pairs[..., self.v.blank] *= 0.3
        mixed = pairs @ table.weight.detach()
        rms = table.weight.detach().square().mean().sqrt()
        return mixed / mixed.square().mean(-1, keepdim=True).sqrt() * rms, lengths // 2


class Tuner:
    """Decoder, its noisy turns, and batches of heard speech."""

    STRENGTH = 0.9  # of the augmentation

    def __init__(
        self, work: Path, speech: Speech, decoder: Any, text_rows: int, device: torch.device
    ) -> None:
        self.speech, self.decoder, self.device = speech, decoder, device
        self.v, self.text_rows = speech.test.vocabulary, text_rows
        self.augment = speech.augment()
        self.listener = Listener(work, self.v, device)
        self.turns = Turns(Spellings.load(work / "spellings.npz"), self.v, 2, device)

    def fresh(self) -> Projector:
        """A new projector that fits."""
        width = self.listener.encoder.config.hidden_size
        made = Projector(width, self.decoder.config.hidden_size, embedding_rms(self.decoder))
        return made.to(self.device)

    def loss(self, project: Projector, step: int, seconds: float, real: float) -> Tensor:
        """Cross-entropy of one batch of speech, and of noisy turns in every second step."""
        rows = self.speech.batch(seconds, real, 0.1, False)
        frames, lengths = self.listener(rows, self.augment, self.STRENGTH)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            table = self.decoder.get_input_embeddings()
            if step % 4 == 3:
                audio, sizes = self.listener.posterior_audio(frames, lengths, table)
            else:
                audio, sizes = project(frames, lengths)
            loss = turn_loss(self.decoder, self.v, audio, sizes, *padded(rows.ids, self.device))
            if step % 2 == 0:
                ids, weights, sizes, *clean = self.turns.batch(self.text_rows, 1.0, 0.6)
                soft = soft_audio(table, ids, weights, 0.5)
                loss = loss + 0.5 * turn_loss(self.decoder, self.v, soft, sizes, *clean)
        return loss


def train(
    work: Path, speech: Speech, minutes: float, *, seconds: float, real: float, restarts: int,
    text_rows: int, judged: int, device: torch.device,
) -> None:  # fmt: skip
    """Tune for `minutes`, with `restarts` projectors one after the other; writes work/tuned.pt."""
    torch.manual_seed(1)
    log = Log(work / "logs" / "tune.jsonl")
    speech.refresh(0.01)
    decoder = new_decoder(speech.test.vocabulary).to(device)
    decoder.load_state_dict(torch.load(work / "decoder.pt", map_location=device))
    decoder.train()
    tuner = Tuner(work, speech, decoder, text_rows, device)
    for number in range(restarts):
        project = tuner.fresh()
        groups = [
            {"params": list(project.parameters()), "peak": 2e-3},
            {"params": list(decoder.parameters()), "peak": 4e-4},
        ]
        optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
        began, step = time.monotonic(), 0
        while (done := (time.monotonic() - began) / (minutes * 60 / restarts)) < 1:
            late = min(1.0, max(0.1, (done - 0.1) / 0.2))  # the projector goes first
            for group, slow in zip(optimizer.param_groups, (1.0, late), strict=True):
                group["lr"] = group["peak"] * rate(done, 0.03, 0.3) * slow
            loss = tuner.loss(project, step, seconds, real)
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                nn.utils.clip_grad_norm_(group["params"], 1.0)
            optimizer.step()
            step += 1
            if step % 25 == 0:
                log(projector=number, step=step, loss=loss.item(), done=done)
    judge = Turns(Spellings.load(work / "held-out.npz"), tuner.v, 1, device)
    log(event="end", **check(decoder, judge, judged))
    final = {name: x.to(torch.bfloat16) for name, x in decoder.state_dict().items()}
    torch.save(final, work / "tuned.pt")
