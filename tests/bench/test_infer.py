"""Every row of the transcription benchmark that must write the plain way's tokens does."""

from __future__ import annotations

import torch
from bench.infer import MEASURES, switched_off, variants
from bench.load import durations, load_pair, utterances

from tiny_audio.model import generate


def test_exact_rows_write_the_tokens_of_the_plain_way() -> None:
    model = load_pair("tiny", torch.device("cpu"), random=True).eval()
    pool = utterances(durations("commands", 20))
    expected: dict[str, list[int]] = {}
    exact = []
    for variant in variants(model, pool):
        if variant.window or not variant.exact:  # hears the silence too, or has other weights
            continue
        with switched_off(variant.without), torch.no_grad():
            for members in variant.batches:
                for one, ids in zip(members, variant.run(members), strict=True):
                    assert expected.setdefault(one.id, ids) == ids
        exact.append(variant.name)
    assert len(expected) == len(pool)
    assert len(exact) == 6


def test_a_measure_is_off_only_inside() -> None:
    before = generate.can_preallocate
    with switched_off(tuple(MEASURES)):
        assert generate.can_preallocate is not before
    assert generate.can_preallocate is before
