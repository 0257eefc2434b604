"""What a run measures beside its steps: its labels before the first one, its held-out set later."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch.nn.utils.rnn import pad_sequence

from tiny_audio.config import Config, LabelConfig
from tiny_audio.data.batching import collate, length_batches
from tiny_audio.data.loader import eval_utterances
from tiny_audio.data.prepare import label_rules, sample_labels, settle_case
from tiny_audio.data.records import RejectCounts, Source, Utterance
from tiny_audio.errors import DataError
from tiny_audio.evaluate.run import evaluate
from tiny_audio.evaluate.wer import Score
from tiny_audio.model.batch import IGNORE
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.labels import LabelRules, in_capitals
from tiny_audio.text.scoring import get_rule
from tiny_audio.train.distributed import total
from tiny_audio.train.stages import eagerly

# ---------------------------------------------------------------------------------- the labels

UNLIKE = 1.25  # nats a word of the labels against the cheapest other way to write them
_NEAR = 1.1  # of the cheapest: the setting that changes less is advised
_CPU_WORK = 4e9  # parameters times labels that are tried where there is no GPU: seconds
_TRIED, _BATCH = 100, 8
_LOWER, _STRIP = "data.labels.case=lower", "data.labels.punctuation=strip"
_WAYS = {  # what it is called: setting and rules, those that change less first
    "in lower case": (_LOWER, LabelRules("lower")),
    "without punctuation": (_STRIP, LabelRules("keep", "strip")),
    "in lower case without punctuation": (f"{_LOWER} {_STRIP}", LabelRules("lower", "strip")),
}


def check_first_labels(
    labels: LabelConfig,
    train: Sequence[Source],
    evaluation: Sequence[Source],
    model: SpeechModel,
    accelerator: Accelerator,
    say: Callable[[str], None],
) -> None:
    """Settle ``case=auto`` in ``labels``, the same in every process, and say what is odd about the
    training labels."""
    if accelerator.is_main_process:
        found = sample_labels(train, labels)
        if labels.case == "auto":
            more = sample_labels(evaluation, labels)
            every = {n: found.get(n, []) + more.get(n, []) for n in found | more}
            for line in settle_case(labels, every):
                say(line)
        rules = label_rules(labels)
        learned = [rules.clean(text, name) for name, texts in found.items() for text in texts]
        with accelerator.autocast():
            for line in describe(model, learned):
                say(line)
    labels.case_of = broadcast_object_list([labels.case_of])[0]


def describe(model: SpeechModel, labels: Sequence[str]) -> list[str]:
    """How the labels are written, and the setting that makes them more like the decoder's text."""
    words = sum(len(label.split()) for label in labels)
    if not words:
        return []
    tokens = sum(len(_ids(model, label)[1]) for label in labels) / words
    capitals = sum(bool(in_capitals(label)) for label in labels) / len(labels)
    marked = sum(any(c in ",.?!;:" for c in label) for label in labels) / len(labels)
    digits = sum(any(map(str.isdigit, label)) for label in labels) / len(labels)
    lines = [
        f"Labels ({len(labels)} looked at): {capitals:.0%} in capitals, {marked:.0%} with "
        f"punctuation, {digits:.0%} with digits; {tokens:.1f} tokens a word"
    ]
    limit = _TRIED
    if model.device.type == "cpu":
        limit = min(limit, max(4, int(_CPU_WORK / model.causal_lm.num_parameters())))
    tried = labels[:: -(-len(labels) // limit)]
    asis = nats_a_word(model, tried, tried)
    ways = {
        way: nats_a_word(model, written, tried)
        for way, (_, rules) in _WAYS.items()
        if (written := [rules.clean(label) for label in tried]) != list(tried)
    }
    cheapest = min(ways.values(), default=math.inf)
    if asis > UNLIKE * cheapest:
        way = next(way for way, cost in ways.items() if cost <= _NEAR * cheapest)
        ratio = math.exp(asis - ways[way])
        times = f"{ratio:,.0f}" if ratio < 1e6 else "over a million"
        lines.append(
            f"The decoder alone finds each word of them {times} times less likely than {way}: "
            f"set {_WAYS[way][0]}"
        )
    return lines


@torch.no_grad()
def nats_a_word(model: SpeechModel, texts: Sequence[str], words_of: Sequence[str]) -> float:
    """What the texts cost the decoder in an answer without audio, a word of ``words_of``."""
    model.eval()
    cost = 0.0
    for first in range(0, len(texts), _BATCH):
        rows = [_ids(model, text) for text in texts[first : first + _BATCH]]
        ids = [torch.tensor(prompt + text) for prompt, text in rows]
        wanted = [torch.tensor([IGNORE] * len(prompt) + text) for prompt, text in rows]
        # Padding is on the right, where causal attention never looks.
        out = model.causal_lm(
            input_ids=pad_sequence(ids, batch_first=True).to(model.device),  # [B, T]
            labels=pad_sequence(wanted, True, IGNORE).to(model.device),
        )
        cost += float(out.loss) * sum(len(text) for _, text in rows)
    return cost / sum(len(text.split()) for text in words_of)


def _ids(model: SpeechModel, text: str) -> tuple[list[int], list[int]]:
    """The tokens of the prompt around no audio, and those of a text with the end token."""
    ids, n_prompt = model.prompt.training(1, text)
    first, last = model.prompt.audio_span(1)
    return ids[:first] + ids[last:n_prompt], ids[n_prompt:]


# ------------------------------------------------------------------------------ the held-out set


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


@torch.no_grad()
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
    ce_sum, tokens = 0.0, 0.0
    model.eval()
    with torch.random.fork_rng(devices), accelerator.autocast(), eagerly(model):
        for part in length_batches(list(share.values()), **sizes):
            batch = collate(part, model.prompt, model.audio_tokens, with_labels=True)
            loss = model.loss(batch.to(model.device))
            ce_sum += float(loss.ce_sum)
            tokens += int(loss.n_tokens)
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
