"""A look at the first labels before training: are they written as the decoder writes?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.nn.utils.rnn import pad_sequence

from tiny_audio.config import LabelConfig
from tiny_audio.data.prepare import label_rules, sample_labels, settle_case
from tiny_audio.data.records import Source
from tiny_audio.model.batch import IGNORE
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.labels import LabelRules, in_capitals

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
    """Settle ``case=auto`` in ``labels`` and say what is odd about the training labels.

    Every process gets what the main one found.
    """
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
    tokens = sum(len(_ids(model, label)[0]) for label in labels) / words
    capitals = sum(bool(in_capitals(label)) for label in labels) / len(labels)
    marked = sum(any(c in ",.?!;:" for c in label) for label in labels) / len(labels)
    digits = sum(any(map(str.isdigit, label)) for label in labels) / len(labels)
    lines = [
        f"Labels ({len(labels)} looked at): {capitals:.0%} in capitals, {marked:.0%} with "
        f"punctuation, {digits:.0%} with digits; {tokens:.1f} tokens a word"
    ]
    limit = _TRIED
    if model.device.type == "cpu":
        parameters = sum(p.numel() for p in model.causal_lm.parameters())
        limit = min(limit, max(4, int(_CPU_WORK / parameters)))
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
    total = 0.0
    for first in range(0, len(texts), _BATCH):
        rows = [_ids(model, text) for text in texts[first : first + _BATCH]]
        ids = pad_sequence([torch.tensor(p + t) for t, p in rows], batch_first=True)  # [B, T]
        wanted = pad_sequence(
            [torch.tensor([IGNORE] * len(p) + t) for t, p in rows],
            batch_first=True,
            padding_value=IGNORE,
        )
        # Padding is on the right, where causal attention never looks.
        out = model.causal_lm(input_ids=ids.to(model.device), labels=wanted.to(model.device))
        total += float(out.loss) * sum(len(t) for t, _ in rows)
    return total / sum(len(text.split()) for text in words_of)


def _ids(model: SpeechModel, text: str) -> tuple[list[int], list[int]]:
    """A text's tokens with the end token, and those of the prompt around no audio."""
    ids, n_prompt = model.prompt.training(1, text)
    first, last = model.prompt.audio_span(1)
    return ids[n_prompt:], ids[:first] + ids[last:n_prompt]
