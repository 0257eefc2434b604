"""Records are decoded in worker processes, and come back in the order they went in.

The main process decides what is read and in which order; a worker gets a record and returns an
utterance. So workers hold no state, and what comes out does not depend on how many there are.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from tiny_audio.data.prepare import Preparer
from tiny_audio.data.utterance import Record, Reject, Utterance
from tiny_audio.errors import TinyAudioError

Item = Record | Reject
Result = Utterance | Reject
T = TypeVar("T")

CHUNK = 4  # records sent to a worker at once
AHEAD = 4  # chunks that wait for or in each worker


def decode(
    items: Iterable[tuple[Item, T]], preparer: Preparer, num_workers: int
) -> Iterator[tuple[Result, T]]:
    """The items in their order, decoded; what is paired with an item stays in this process.

    `num_workers` 0 decodes here. With workers, some chunks more than were asked for are read ahead.
    """
    if num_workers == 0:
        for item, tag in items:
            yield _decoded(item, preparer), tag
        return
    tags: deque[T] = deque()
    loader: DataLoader[Any] = DataLoader(
        _Decoder(preparer),
        batch_sampler=_chunks(items, tags),  # runs in this process; its "indices" are the records
        num_workers=num_workers,
        prefetch_factor=AHEAD,
        collate_fn=_as_it_is,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # or it would draw from the global one, which training uses
    )
    for chunk in loader:
        for result in chunk:
            if isinstance(result, TinyAudioError):
                raise result
            yield result, tags.popleft()


class _Decoder(Dataset[Result | TinyAudioError]):
    """Map-style over the records themselves.

    An error for people is a result too: raised here, it would come with the worker's traceback.
    """

    def __init__(self, preparer: Preparer) -> None:
        self._preparer = preparer

    def __getitem__(self, item: Item) -> Result | TinyAudioError:
        try:
            return _decoded(item, self._preparer)
        except TinyAudioError as error:
            return error


def _decoded(item: Item, preparer: Preparer) -> Result:
    return item if isinstance(item, Reject) else preparer(item)


def _chunks(items: Iterable[tuple[Item, T]], tags: deque[T]) -> Iterator[list[Item]]:
    pairs = iter(items)
    while chunk := list(islice(pairs, CHUNK)):
        tags.extend(tag for _, tag in chunk)
        yield [item for item, _ in chunk]


def _as_it_is(results: list[Any]) -> list[Any]:
    return results


def _start_worker(_: int) -> None:
    """Ctrl-C is the main process's to handle: it saves, and then ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
