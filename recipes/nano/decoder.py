"""Stage 4: train the decoder to read a noisy, stretched spelling and to write the clean words.

The user turn holds soft embeddings as a projector might give them: every token of a (partly
misspelt) word at one or two places, blanks between, mixed with neighbours and strangers, noisy.
"""

import time
from pathlib import Path
from typing import Any

import torch

from recipes.nano.figures import Log, Saved, rate, word_error_rate
from recipes.nano.pair import new_decoder, save_decoder, turn_loss, write
from recipes.nano.text import Vocabulary, corpus
from recipes.nano.turns import Turns, soft_audio

SAVE_S = 60.0  # between saves to resume from


def check(decoder: Any, turns: Turns, rows: int) -> dict[str, float]:
    """WER on held-out text: correctly spelt but stretched, mixed and noisy; and misspelt."""
    figures = {}
    decoder.eval()
    for name, wrong in (("spelt", 0.0), ("misspelt", 0.4)):
        ids, weights, lengths, clean, counts = turns.batch(rows, 1.0, wrong)
        with torch.no_grad():
            audio = soft_audio(decoder.get_input_embeddings(), ids, weights, 0.3)
        hypotheses = write(decoder, turns.vocabulary, audio, lengths)
        pairs = zip(clean.tolist(), counts.tolist(), strict=True)
        references = [turns.vocabulary.text(row[:count]) for row, count in pairs]
        figures[f"wer_{name}"] = word_error_rate(references, hypotheses)
    decoder.train()
    return figures


def make_turns(
    work: Path, vocabulary: Vocabulary, everyday: int, most: int, device: torch.device
) -> tuple[Turns, Turns]:
    """Turns of `most` phrases to train on, and held-out ones."""
    train = corpus(work, "train", everyday)[:most]
    test = corpus(work, "test", everyday // 10)[:3000]
    return Turns(train, vocabulary, 0, device), Turns(test, vocabulary, 1, device)


def train(
    work: Path, minutes: float, *, rows: int, peak: float, everyday: int, most: int, judged: int,
    every: int,
) -> None:  # fmt: skip
    """Train for `minutes` (kept across restarts) and write work/decoder, unless it is there."""
    if (work / "decoder" / "tokenizer_config.json").exists():
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    v = Vocabulary(work / "tokenizer")
    log = Log(work / "logs" / "decoder.jsonl")
    turns, judge = make_turns(work, v, everyday, most, device)
    decoder = new_decoder(v).to(device)
    optimizer = torch.optim.AdamW(
        decoder.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.05,
        fused=device.type == "cuda",
    )  # fmt: skip
    saved = Saved(work / "decoder_state.pt", SAVE_S, model=decoder, optimizer=optimizer)
    step, spent = saved.load((0, 0.0))
    log(event="start", parameters=sum(p.numel() for p in decoder.parameters()),
        phrases=len(turns.counts), step=step)  # fmt: skip
    last = time.monotonic()
    while spent < minutes * 60:
        done = spent / (minutes * 60)
        hard = min(1.0, done / 0.15)
        for group in optimizer.param_groups:
            group["lr"] = peak * rate(done, warm=0.02, hold=0.5)
        with torch.no_grad():
            ids, weights, lengths, *clean = turns.batch(rows, hard, 0.6 * hard)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            audio = soft_audio(decoder.get_input_embeddings(), ids, weights, 0.5 * hard)
            loss = turn_loss(decoder, v, audio, lengths, *clean)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            log(step=step, loss=loss.item(), done=done)
        now = time.monotonic()
        spent, last = spent + now - last, now
        if step % every == 0:
            log(step=step, **check(decoder, judge, judged))
        saved.save((step, spent))
    log(event="end", step=step, **check(decoder, judge, judged))
    save_decoder(decoder, work / "tokenizer", work / "decoder")
