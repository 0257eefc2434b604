"""The training stream: one order for any number of workers and ranks, and across a restart."""

import json
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

import tiny_audio.data.shards as shards
from tests.data.helpers import (
    ids,
    make_corpus,
    make_stream,
    noise,
    open_one,
    reading,
    reject_lines,
    spec,
    take,
    write_manifest,
)
from tests.data.test_files import write_files
from tiny_audio.data.loader import TrainingStream, eval_utterances
from tiny_audio.data.records import RejectCounts, RejectLog, Source
from tiny_audio.data.sources import open_sources
from tiny_audio.errors import DataError
from tiny_audio.model.batch import Batch
from tiny_audio.text.labels import LabelRules


def same(first: list[Batch], second: list[Batch]) -> bool:
    """Equal to the last sample and token."""
    return len(first) == len(second) and all(
        a.ids == b.ids
        and torch.equal(a.waveform, b.waveform)
        and torch.equal(a.input_ids, b.input_ids)
        for a, b in zip(first, second, strict=True)
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Three sets of different kinds and sizes, as settings."""
    folder = tmp_path_factory.mktemp("mixed")
    files = folder / "folder"
    make_corpus(files, 11, seed=1, prefix="f")
    for n in range(11):
        (files / f"f{n:03d}.txt").write_text(f"folder {n}")
    return [
        spec(path=str(make_corpus(folder / "manifest", 23, seed=2, prefix="m")), weight=2.0),
        spec(kind="folder", path=str(files), weight=1.0),
        spec(kind="hub", path=str(write_files(folder / "hub", "hub")), weight=1.5),
    ]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BLOCK", 8)


def opened(mixed: list[dict]) -> list[Source]:
    return open_sources({f"s{n}": values for n, values in enumerate(mixed)}, key="data.train")


def resumed(stream: TrainingStream, fresh: TrainingStream) -> TrainingStream:
    fresh.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    return fresh


@pytest.fixture(scope="module")
def whole(mixed, prompt) -> tuple[list[Batch], dict]:
    """The first 20 batches, and the state after them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BLOCK", 8)
        stream = make_stream(opened(mixed), prompt)
        return take(stream, 20), stream.state_dict()


def test_the_order_does_not_depend_on_the_workers_but_on_the_seed(mixed, prompt, whole):
    for workers in (1, 2):
        stream = make_stream(opened(mixed), prompt, num_workers=workers)
        before = torch.get_rng_state()
        assert same(take(stream, 20), whole[0])
        assert torch.equal(torch.get_rng_state(), before)
        assert stream.state_dict() == whole[1]
    other = take(make_stream(opened(mixed), prompt, seed=6), 5)
    assert ids(other) != ids(whole[0][:5])


@pytest.mark.parametrize(("stop", "workers"), [(1, 0), (14, 0), (7, 2)])
def test_a_resumed_stream_equals_one_that_never_stopped(mixed, prompt, whole, stop, workers):
    stopped = make_stream(opened(mixed), prompt, num_workers=workers)
    first = take(stopped, stop)
    again = resumed(stopped, make_stream(opened(mixed), prompt, num_workers=workers))
    assert same(whole[0], first + take(again, 20 - stop))
    assert same(take(stopped, 2), whole[0][stop : stop + 2])  # nor does it lose its own place


def test_resuming_reads_one_pool_again_and_no_more(corpus, prompt, monkeypatch):
    stream = make_stream([open_one(path=str(corpus))], prompt)
    take(stream, 60)
    assert stream.epoch > 4
    source = open_one(path=str(corpus))
    read: list[int] = []
    original = type(source).read
    monkeypatch.setattr(type(source), "read", lambda self, n: read.append(n) or original(self, n))
    take(resumed(stream, make_stream([source], prompt)), 1)
    assert len(read) <= 2 * 16 + 1


def test_other_data_is_refused_and_other_batches_begin_the_pool_anew(mixed, corpus, prompt, caplog):
    stream = make_stream(opened(mixed), prompt)
    take(stream, 2)
    with pytest.raises(DataError, match=r"sources was .*s0.*, is .*main.*init_from"):
        resumed(stream, make_stream([open_one(path=str(corpus))], prompt))
    with pytest.raises(DataError, match="world_size was 1, is 2"):
        resumed(stream, make_stream(opened(mixed), prompt, world_size=2))
    again = resumed(stream, make_stream(opened(mixed), prompt, batch_seconds=3))
    assert "comes again" in caplog.text
    assert all(batch.padded_seconds <= 3 for batch in take(again, 5))


def test_each_pass_holds_every_utterance_once(corpus, prompt):
    stream = make_stream([open_one(path=str(corpus))], prompt)
    passes: list[list[str]] = [[], [], []]
    for batch in stream:
        assert batch.padded_seconds <= 6.0
        assert len(batch) <= 8
        number = min(int(stream.epoch - 1e-9), 3)
        if number == 3:
            break
        passes[number].extend(batch.ids)
    expected = sorted(item.id for item in open_one(path=str(corpus)).records())
    assert [sorted(found) for found in passes] == [expected] * 3
    assert len({tuple(found) for found in passes}) == 3


def test_a_set_smaller_than_the_pool_never_shares_a_batch_with_itself(tmp_path, prompt):
    source = open_one(path=str(make_corpus(tmp_path, 5)))
    batches = take(make_stream([source], prompt, pool=512, batch_seconds=60.0), 6)
    assert [len(set(batch.ids)) for batch in batches] == [5] * 6


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A manifest of 40 utterances, of which 9 cannot be used, for six reasons."""
    folder = tmp_path_factory.mktemp("damaged")
    manifest = make_corpus(folder, 40)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for n in (3, 17):
        whole = (folder / rows[n]["audio_filepath"]).read_bytes()
        (folder / rows[n]["audio_filepath"]).write_bytes(whole[: len(whole) // 2])
    (folder / rows[8]["audio_filepath"]).write_bytes(b"")
    (folder / rows[9]["audio_filepath"]).unlink()
    soundfile.write(folder / rows[21]["audio_filepath"], noise(7.0, 0), 16_000)
    rows[25]["text"] = "[noise]"
    rows[30]["text"] = "x" * 65
    rows[31]["duration"] = 31.0
    lines = [json.dumps(row) for row in rows]
    lines[12] = "{broken"
    manifest.write_text("\n".join(lines))
    return str(manifest)


REASONS = {
    "truncated": 2,
    "empty": 1,
    "unreadable": 1,
    "over_budget": 1,
    "empty_label": 1,
    "label_too_long": 1,
    "too_long": 1,
    "bad_record": 1,
}


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_samples_are_counted_and_listed_once_and_the_rest_is_learned(
    damaged, prompt, workers, tmp_path
):
    source, log = open_one(path=damaged), RejectLog(tmp_path)
    stream = make_stream([source], prompt, num_workers=workers, log=log)
    seen: set[str] = set()
    for batch in stream:
        seen.update(batch.ids)
        if stream.epoch > 2.5:
            break
    assert len(seen) == 31
    assert dict(stream.rejects.reasons) == REASONS
    assert stream.rejects.seen == 40
    assert stream.rejects.summary()[0] == "rejected 9 of 40 samples"
    rows = reject_lines(tmp_path)
    assert Counter(row["reason"] for row in rows) == REASONS
    assert len({row["id"] for row in rows}) == 9
    assert all(row["source"] == "main" and row["message"] for row in rows)


@pytest.mark.parametrize("stop", [1, 5])
def test_a_resume_lists_no_reject_twice_and_loses_none(damaged, prompt, tmp_path, stop):
    """Killed after reading further than the last checkpoint, in the middle of a line."""
    source, parts = open_one(path=damaged), tmp_path / "parts"

    def make(folder: Path, **changes: Any) -> TrainingStream:
        return make_stream([source], prompt, pool=8, log=RejectLog(folder), **changes)

    whole, stopped, again = make(tmp_path), make(parts, num_workers=2), make(parts)
    take(whole, 9)
    take(stopped, stop)
    saved = deepcopy(stopped.state_dict())
    take(stopped, 3)
    with (parts / "rejects.jsonl").open("a") as file:
        file.write('{"id": "u')
    again.load_state_dict(saved)
    take(again, 9 - stop)
    assert reject_lines(parts) == reject_lines(tmp_path)
    assert again.rejects.to_dict() == whole.rejects.to_dict()
    assert len(reject_lines(parts)) == again.rejects.total


def test_ranks_list_their_own_rejects_and_together_all(damaged, prompt, tmp_path):
    for rank in range(3):
        share = {"rank": rank, "world_size": 3, "log": RejectLog(tmp_path, rank)}
        for _ in (stream := make_stream([open_one(path=damaged)], prompt, pool=8, **share)):
            if stream.epoch > 1.5:
                break
    found = Counter(row["reason"] for rank in range(3) for row in reject_lines(tmp_path, rank))
    assert found == REASONS


def test_data_without_one_usable_sample_ends_with_the_reasons(tmp_path, prompt):
    for n in range(6):
        (tmp_path / f"{n}.wav").write_bytes(b"")
    rows = [{"audio_filepath": f"{n}.wav", "text": "a"} for n in range(6)]
    source = open_one(path=str(write_manifest(tmp_path / "m.jsonl", rows)))
    for repeat in (True, False):
        with pytest.raises(DataError, match=r"No sample of the training data can be used.*6 empty"):
            take(make_stream([source], prompt, repeat=repeat), 1)


def test_one_good_sample_is_enough(tmp_path, prompt):
    rows = [{"audio_filepath": f"u{n:03d}.wav", "text": "a"} for n in range(4)]
    make_corpus(tmp_path, 1)
    source = open_one(path=str(write_manifest(tmp_path / "m.jsonl", rows)))
    for seed in range(6):
        assert ids(take(make_stream([source], prompt, seed=seed), 4)) == [["u000.wav"]] * 4


class Refusing(LabelRules):
    error: type[Exception] = DataError

    def clean(self, text: str, source: str = "") -> str:
        raise self.error("mend this")


class Broken(Refusing):
    error = KeyError


@pytest.mark.parametrize("workers", [0, 1])
def test_a_defect_names_its_record_and_an_error_for_people_stays_one_line(corpus, prompt, workers):
    source, changes = open_one(path=str(corpus)), {"num_workers": workers}
    with pytest.raises(RuntimeError, match=r"record 'u\d+\.wav' of source 'main' failed"):
        take(make_stream([source], prompt, rules=Broken(), **changes), 1)
    with pytest.raises(DataError, match=r"^mend this$"):
        take(make_stream([source], prompt, rules=Refusing(), **changes), 1)


def evaluated(sources: list[Source], prompt, counts: RejectCounts, **changes):
    return eval_utterances(sources, rejects=counts, **reading(prompt, max_seconds=6.0, **changes))


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_decode_disjoint_shares_that_together_are_the_evaluation(damaged, prompt, workers):
    source = open_one(path=damaged)
    alone, together = RejectCounts(), RejectCounts()
    whole = evaluated([source], prompt, alone, num_workers=workers)
    assert list(whole) == sorted(whole)
    clips = list(whole.values())
    assert [clip.id for clip in clips] == sorted(clip.id for clip in clips)
    assert len(clips) == 31
    assert (alone.seen, alone.total, alone.reasons["too_long"]) == (40, 9, 2)
    assert clips[0].extra["transcript"] == clips[0].text
    found: dict[int, str] = {}
    for rank in range(3):
        counts = RejectCounts()
        share = evaluated([source], prompt, counts, rank=rank, world_size=3)
        assert 5 < counts.seen < 25
        assert not found.keys() & share.keys()
        found |= {number: clip.id for number, clip in share.items()}
        together.merge(counts)
    assert found == {number: clip.id for number, clip in whole.items()}
    assert (together.seen, together.reasons) == (alone.seen, alone.reasons)


def test_endless_data_cannot_be_evaluated(prompt):
    pytest.importorskip("espeakng_loader")
    with pytest.raises(DataError, match="endless: set max_samples"):
        evaluated([open_one(kind="synthetic")], prompt, RejectCounts())


def test_synthetic_speech_streams_alike_from_any_number_of_workers_and_resumes(prompt):
    """espeak-ng speaks in the workers, each time in its own order: not a sample may differ."""
    pytest.importorskip("espeakng_loader")

    def make(workers: int) -> TrainingStream:
        source = open_one(kind="synthetic")
        return make_stream([source], prompt, pool=8, batch_seconds=60.0, num_workers=workers)

    alone, helped = make(0), make(2)
    assert same(take(alone, 2), take(helped, 2))
    following = take(resumed(helped, make(1)), 1)
    assert same(following, take(alone, 1))
    assert set(following[0].ids) == {f"train-0-{n}" for n in range(16, 24)}
    assert helped.epoch == 0.0
