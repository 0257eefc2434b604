"""A test set, read once in its own order, ahead of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from tiny_audio.config import LabelConfig
from tiny_audio.data.decode import decode
from tiny_audio.data.named import open_set as open_set
from tiny_audio.data.prepare import Preparer
from tiny_audio.data.records import Source
from tiny_audio.data.utterance import Reject, Utterance
from tiny_audio.errors import DataError
from tiny_audio.infer.prefetch import prefetch
from tiny_audio.text.labels import LabelRules


def read_set(
    sources: Sequence[Source], *, limit: int | None, workers: int, ahead_seconds: float
) -> Iterator[Utterance | Reject]:
    """Every utterance once, in a fixed order, those that cannot be used as rejects.

    A transcript is cleaned of its notes but keeps its case and punctuation, which are the
    scoring rule's business, and may be empty. No length is refused. Audio is read on a background
    thread, which keeps about `ahead_seconds` ready, and decoded in `workers` processes (0: on
    that thread).

    Raises DataError for a source without end, unless there is a limit.
    """
    for source in sources:
        if source.endless and limit is None:
            raise DataError(f"The data source {source.name!r} is endless: set a limit.")
    labels = LabelConfig()
    rules = LabelRules(labels.case, labels.punctuation, allow_empty=True)
    items = chain.from_iterable(source.records() for source in sources)
    decoded = decode(
        ((item, None) for item in islice(items, limit)),
        Preparer(rules, min_seconds=0.0, max_seconds=math.inf),
        workers,
    )
    first = list(islice(decoded, 1))  # worker processes start here, not on the thread
    ahead = prefetch(
        chain(first, decoded), cost=lambda pair: _seconds(pair[0]), budget=ahead_seconds
    )
    return (result for result, _ in ahead)


def _seconds(result: Utterance | Reject) -> float:
    return result.seconds if isinstance(result, Utterance) else 0.0
