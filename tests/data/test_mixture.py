"""Mixtures: what is drawn from which source, what happens at its end, and what came of it."""

import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import soundfile

from tests.data.helpers import ids, make_corpus, make_stream, noise, spec, take, write_manifest
from tiny_audio.data.mixture import Mixture
from tiny_audio.data.records import Source
from tiny_audio.data.sources import open_data
from tiny_audio.errors import DataError


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    folder = tmp_path_factory.mktemp("pair")
    specs = {
        "large": spec(path=str(make_corpus(folder / "a", 40, prefix="a"))),
        "small": spec(path=str(make_corpus(folder / "b", 15, seed=1, prefix="b")), weight=3.0),
    }
    return open_data(specs, {}, holdout=0)[0]


def mixture(sources: list[Source], **changes: object) -> Mixture:
    settings = {"seed": 1, "rank": 0, "world_size": 1, "repeat": False}
    return Mixture(sources, [s.weight for s in sources], **(settings | changes))


def names(sources: list[Source], **changes: object) -> list[str]:
    mixed = mixture(sources, **changes)
    return [draw.item.id for draw in islice(mixed.draws(mixed.start), 200)]


def test_shares_are_probabilities(pair):
    drawn = Counter(name[0] for name in names(pair, repeat=True))
    assert drawn["b"] / drawn.total() == pytest.approx(0.75, abs=0.08)


def test_without_repetition_everything_comes_once_and_then_the_end(pair):
    drawn = names(pair)
    assert sorted(drawn) == sorted(item.id for source in pair for item in source.records())
    repeated = names(pair, repeat=True)
    small = [n for n, name in enumerate(drawn) if name[0] == "b"]
    assert drawn[: small[-1] + 1] == repeated[: small[-1] + 1]  # alike until one has ended
    assert {name[0] for name in drawn[small[-1] + 1 :]} == {"a"}


def test_ranks_end_within_one_draw_of_each_other(pair):
    parts = [names(pair, rank=rank, world_size=2) for rank in range(2)]
    assert abs(len(parts[0]) - len(parts[1])) <= 2
    assert sorted(parts[0] + parts[1]) == sorted(names(pair))


def test_a_stream_without_repetition_ends(pair, prompt):
    stream = make_stream(pair, prompt, repeat=False, num_workers=1)
    batches = list(stream)
    assert sum(map(len, ids(batches))) == 55
    assert stream.usage.utterances == {"large": 40, "small": 15}
    seconds = sum(batch.audio_seconds for batch in batches)
    assert sum(stream.usage.seconds.values()) == pytest.approx(seconds)
    (line,) = stream.usage.summary()
    assert "large 72.7% of the utterances" in line
    assert list(stream) == []


@pytest.mark.parametrize("at", [1, 9])
def test_a_resumed_stream_ends_with_the_same_batches_and_counts(pair, prompt, at):
    whole = make_stream(pair, prompt, repeat=False)
    batches = ids(list(whole))
    first = make_stream(pair, prompt, repeat=False)
    take(first, at)
    second = make_stream(pair, prompt, repeat=False)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert ids(list(second)) == batches[at:]
    assert second.usage.utterances == whole.usage.utterances
    with pytest.raises(DataError, match="repeat"):  # is not changed in mid-run
        make_stream(pair, prompt).load_state_dict(first.state_dict())


def corpus_of(folder, seconds: float, declared: bool) -> dict[str, object]:
    folder.mkdir()
    rows = []
    for n in range(12):
        soundfile.write(folder / f"{n}.wav", noise(seconds, n), 16_000)
        row = {"audio_filepath": f"{n}.wav", "text": "x"}
        rows.append(row | ({"duration": seconds} if declared else {}))
    return spec(path=str(write_manifest(folder / "m.jsonl", rows)))


def test_weights_may_be_shares_of_hours(tmp_path, prompt):
    specs = {
        "long": corpus_of(tmp_path / "a", 2.0, declared=False),
        "short": corpus_of(tmp_path / "b", 0.5, declared=True),
    }
    sources = open_data(specs, {}, holdout=0, weights="hours")[0]
    assert sources[1].weight / sources[0].weight == pytest.approx(4.0)
    stream = make_stream(sources, prompt)
    for _ in stream:
        if stream.epoch > 8:
            break
    usage = stream.usage
    assert usage.seconds["long"] / sum(usage.seconds.values()) == pytest.approx(0.5, abs=0.08)
    assert np.isclose(usage.row()["hours_long"], usage.utterances["long"] * 2 / 3600)


def test_hours_of_a_source_whose_lengths_are_not_known_must_be_told(tmp_path):
    specs = {
        "one": corpus_of(tmp_path / "a", 0.5, True),
        "two": spec(kind="synthetic", mean_seconds=None),
    }
    with pytest.raises(DataError, match=r"set data\.train\.two\.mean_seconds"):
        open_data(specs, {}, holdout=0, weights="hours")
    specs["two"]["mean_seconds"] = 2.0
    assert open_data(specs, {}, holdout=0, weights="hours")[0][1].weight == 0.5
    with pytest.raises(DataError, match=r"data\.weights=days: use utterances or hours"):
        open_data(specs, {}, holdout=0, weights="days")
