"""Fetching ahead changes nothing but the time: order, position and errors stay where they were."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.helpers import make_corpus, make_stream, open_one
from tests.train.helpers import ListStream
from tiny_audio.data.loader import TrainingStream
from tiny_audio.errors import DataError
from tiny_audio.model.batch import Batch
from tiny_audio.model.decoder import byte_tokenizer
from tiny_audio.text.prompt import Prompt
from tiny_audio.train.loop import Prefetcher


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus", 30)


def stream_of(corpus: Path, **changes: Any) -> TrainingStream:
    prompt = Prompt.from_tokenizer(byte_tokenizer(), "Transcribe: ")
    return make_stream([open_one(kind="manifest", path=str(corpus))], prompt, **changes)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_it_stands_where_batches_were_taken(corpus: Path, count: int) -> None:
    plain, ahead = stream_of(corpus), Prefetcher(stream_of(corpus))
    for one, two in islice(zip(plain, ahead, strict=False), 12):
        ahead.fetch(count)
        assert one.ids == two.ids
        assert torch.equal(one.waveform, two.waveform)
        assert ahead.state_dict() == plain.state_dict()
        assert ahead.epoch == plain.epoch == two.epoch
    rest = stream_of(corpus)
    rest.load_state_dict(ahead.state_dict())
    assert [b.ids for b in islice(rest, 4)] == [b.ids for b in islice(plain, 4)]


def test_it_ends_where_the_data_ends(corpus: Path) -> None:
    ahead, found = Prefetcher(stream_of(corpus, repeat=False)), []
    for batch in ahead:
        found.append(batch.ids)
        ahead.fetch(5)
    assert found == [batch.ids for batch in stream_of(corpus, repeat=False)]


class Broken(ListStream):
    def __iter__(self) -> Iterator[Batch]:
        yield from self.batches
        raise DataError("the disk is gone")


def test_an_error_waits_for_its_turn(corpus: Path) -> None:
    two = list(islice(stream_of(corpus), 2))
    ahead = Prefetcher(Broken(two))  # type: ignore[arg-type]
    batches = iter(ahead)
    for batch in two:
        assert next(batches).ids == batch.ids
        ahead.fetch(4)
    with pytest.raises(DataError, match="the disk is gone"):
        next(batches)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_what_is_fetched_is_pinned_and_the_same(corpus: Path) -> None:
    plain, ahead = stream_of(corpus), Prefetcher(stream_of(corpus), pin=True)
    for one, two in islice(zip(plain, ahead, strict=False), 6):
        ahead.fetch(2)
        assert two.waveform.is_pinned()
        assert torch.equal(two.to("cuda").waveform.cpu(), one.waveform)
        assert torch.equal(two.input_ids, one.input_ids)
