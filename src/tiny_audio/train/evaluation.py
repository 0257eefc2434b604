"""The look at the held-out set now and then: loss over all of it, words over a part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from tiny_audio.config import GenerationConfig
from tiny_audio.data.batching import collate, length_batches
from tiny_audio.data.records import Utterance
from tiny_audio.evaluate.run import evaluate
from tiny_audio.evaluate.wer import Score
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.scoring import ScoringRule
from tiny_audio.train.compiling import eagerly


@dataclass(frozen=True)
class Checkup:
    """How the model does at one step. ``wer`` and ``cer`` are None without reference words."""

    loss: float  # nats per label token, over every held-out utterance
    wer: float | None
    cer: float | None
    pairs: tuple[tuple[str, str], ...]  # reference and hypothesis, always of the same utterances


@dataclass(frozen=True)
class HeldOut:
    """The held-out set: this process's share by record number, and the numbers of all of it."""

    share: Mapping[int, Utterance]
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def spread(self, count: int) -> list[int]:
        """At most ``count`` numbers, evenly spread: neighbours are often one speaker's."""
        count = min(count, len(self))
        return [self.numbers[i * len(self) // count] for i in range(count)]


@dataclass(frozen=True)
class CheckupPlan:
    """What is looked at and how; the processes share the work.

    Args:
        held_out: the held-out set.
        words: utterances that are also transcribed, evenly spread over the set.
        show: pairs of reference and hypothesis that are returned.
        rule: of scoring.
        batch_seconds: padded audio in one batch.
        max_utterances: in one batch.
        generation: how text is decoded.
    """

    held_out: HeldOut
    words: int
    show: int
    rule: ScoringRule
    batch_seconds: float
    max_utterances: int
    generation: GenerationConfig

    def run(self, model: SpeechModel, accelerator: Accelerator) -> Checkup:
        """Evaluate the model; leaves it in eval mode and the random states as they were."""
        devices = [accelerator.device] if accelerator.device.type == "cuda" else []
        share = self.held_out.share
        heard = [number for number in self.held_out.spread(self.words) if number in share]
        with torch.random.fork_rng(devices), accelerator.autocast(), eagerly(model):
            ce_sum, tokens = loss_sums(
                model,
                list(share.values()),
                batch_seconds=self.batch_seconds,
                max_utterances=self.max_utterances,
            )
            result = evaluate(
                model,
                [share[number] for number in heard],
                rule=self.rule,
                batch_seconds=self.batch_seconds,
                max_utterances=self.max_utterances,
                generation=self.generation,
            )
        sums = torch.tensor([ce_sum, tokens], dtype=torch.float32, device=accelerator.device)
        ce_sum, tokens = accelerator.reduce(sums, "sum").tolist()
        scores: list[Score] = gather_object([result.score])
        score = sum(scores[1:], scores[0])
        number_of = {share[number].id: number for number in heard}
        texts = gather_object(
            [(number_of[r.id], (r.reference, r.hypothesis)) for r in result.scored[: self.show]]
        )
        pairs = tuple(dict(sorted(texts)).values())[: self.show]
        return Checkup(ce_sum / max(tokens, 1), score.wer, score.cer, pairs)


@torch.no_grad()
def loss_sums(
    model: SpeechModel,
    utterances: Sequence[Utterance],
    *,
    batch_seconds: float,
    max_utterances: int,
) -> tuple[float, int]:
    """Cross-entropy in nats summed over the label tokens of a set, and their number.

    Puts the model into eval mode. Utterances too short for one audio token are left out.
    """
    model.eval()
    heard = [u for u in utterances if model.audio_tokens(len(u.waveform)) > 0]
    ce_sum, tokens = 0.0, 0
    for part in length_batches(heard, batch_seconds=batch_seconds, max_utterances=max_utterances):
        batch = collate(part, model.prompt, model.audio_tokens, with_labels=True)
        loss = model.loss(batch.to(model.device))
        ce_sum += float(loss.ce_sum)
        tokens += int(loss.n_tokens)
    return ce_sum, tokens
