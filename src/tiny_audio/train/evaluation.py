"""Evaluation on the held-out set during a run: loss over all of it, WER over a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from tiny_audio.config import Config
from tiny_audio.data.batching import collate, length_batches
from tiny_audio.data.loader import eval_utterances
from tiny_audio.data.records import RejectCounts, Source, Utterance
from tiny_audio.errors import DataError
from tiny_audio.evaluate.run import evaluate
from tiny_audio.evaluate.wer import Score
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.scoring import get_rule
from tiny_audio.train.distributed import total
from tiny_audio.train.stages import eagerly


class Evaluation(NamedTuple):
    """How the model does at one step. ``wer`` and ``cer`` are None without reference words."""

    loss: float  # nats per label token, over every held-out utterance
    wer: float | None
    cer: float | None
    pairs: tuple[tuple[str, str], ...]  # reference and hypothesis, always of the same utterances


class HeldOut(NamedTuple):
    """The held-out set: this process's share by record number, and the numbers of all of it."""

    share: dict[int, Utterance]
    numbers: list[int]


def load_held_out(
    sources: list[Source], accelerator: Accelerator, rejects: RejectCounts, **limits: Any
) -> HeldOut:
    """Decode this process's share; what all processes rejected is added to ``rejects``.

    ``limits`` are those of ``eval_utterances``. Raises DataError where nothing can be used.
    """
    own = RejectCounts()
    rank, processes = accelerator.process_index, accelerator.num_processes
    share = eval_utterances(sources, rejects=own, rank=rank, world_size=processes, **limits)
    for counts in gather_object([own]):
        rejects.merge(counts)
    numbers = sorted(gather_object(list(share)))
    if not numbers:
        why = "; ".join(line.strip() for line in rejects.summary()) or "it is empty"
        raise DataError(f"No sample of the evaluation data can be used: {why}.")
    return HeldOut(share, numbers)


def evaluate_held_out(
    model: SpeechModel, accelerator: Accelerator, held_out: HeldOut, cfg: Config
) -> Evaluation:
    """Evaluate the model; leaves it in eval mode and the random states as they were.

    ``training.eval_utterances``, evenly spread over the set as neighbours are often one speaker's,
    give the WER; ``training.show_examples`` of them are returned. The processes share the work.
    """
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    (share, numbers), settings, shown = held_out, cfg.evaluation, cfg.training.show_examples
    count = min(cfg.training.eval_utterances, len(numbers))
    spread = [numbers[i * len(numbers) // count] for i in range(count)]
    chosen = [number for number in spread if number in share]
    number_of = {share[number].id: number for number in chosen}
    sizes: dict[str, Any] = {
        "batch_seconds": settings.batch_seconds,
        "max_utterances": settings.max_utterances,
    }
    with torch.random.fork_rng(devices), accelerator.autocast(), eagerly(model):
        ce_sum, tokens = _loss_sums(model, list(share.values()), **sizes)
        result = evaluate(
            model,
            [share[number] for number in chosen],
            rule=get_rule(settings.scoring),
            generation=settings.generation,
            **sizes,
        )
    ce_sum, tokens = total([ce_sum, tokens], accelerator)
    scores: list[Score] = gather_object([result.score])
    score = sum(scores[1:], scores[0])
    texts = gather_object(
        [(number_of[r.id], (r.reference, r.hypothesis)) for r in result.scored[:shown]]
    )
    pairs = tuple(pair for _, pair in sorted(texts))[:shown]
    return Evaluation(ce_sum / max(tokens, 1), score.wer, score.cer, pairs)


@torch.no_grad()
def _loss_sums(
    model: SpeechModel, utterances: Sequence[Utterance], **sizes: Any
) -> tuple[float, float]:
    """Cross-entropy in nats summed over the label tokens of a set, and their number."""
    model.eval()
    ce_sum, tokens = 0.0, 0.0
    for part in length_batches(utterances, **sizes):
        batch = collate(part, model.prompt, model.audio_tokens, with_labels=True)
        loss = model.loss(batch.to(model.device))
        ce_sum += float(loss.ce_sum)
        tokens += int(loss.n_tokens)
    return ce_sum, tokens
