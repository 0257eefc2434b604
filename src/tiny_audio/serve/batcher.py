"""Recordings of many clients, decoded together by the one thread that owns the model.

    recording ─► spans, a few ahead ─► fair queue ─► batches of like length ─► text, span by span

S samples.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.config import GenerationConfig
from tiny_audio.data.records import Utterance
from tiny_audio.infer.recognise import Decoder, Found, Recognition, Segment, cut_clips, to_segment
from tiny_audio.model.generate import new_text
from tiny_audio.model.speech import SpeechModel

PATIENCE = 0.005  # seconds that an idle worker waits for more than one span
LIKE = 1.5  # a batch is at most so many times as long, padding included, as what is in it
READERS = 4  # threads that decode audio files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wish:
    """How a client wants its recording decoded; only equal ones share a batch."""

    words: bool = False
    temperature: float = 0.0

    @property
    def options(self) -> GenerationConfig:
        if self.temperature:
            return GenerationConfig(do_sample=True, temperature=self.temperature)
        return GenerationConfig()


@dataclass(eq=False)
class Part:
    """One span of a recording and what was recognised in it."""

    segment: Segment
    token_ids: Sequence[int]
    logprobs: Sequence[float]


@dataclass(eq=False)
class Job:
    """One span that waits. ``tell`` is called by the worker with pieces of text, if they are
    wanted, and with what was found or went wrong."""

    client: object
    clip: Utterance
    wish: Wish
    tell: Callable[[str | Found | Exception], object]
    pieces: bool = False
    shown: str = ""
    gone: bool = False


class Batcher:
    """Decodes the spans of all clients in batches, each client in its turn.

    A batch holds at most ``batch_seconds`` of padded audio and ``max_utterances`` spans; a client
    has at most a batch's worth of spans waiting, so that hours take no memory. ``observe`` is told
    the spans and the seconds of wall time of every batch.
    """

    def __init__(
        self,
        model: SpeechModel,
        *,
        batch_seconds: float,
        max_utterances: int,
        observe: Callable[[int, float], object] = lambda spans, seconds: None,
    ) -> None:
        self.model = model
        self.speed = 1.0  # seconds of audio decoded in a second of late
        self._batch_seconds, self._max_utterances = batch_seconds, max_utterances
        self._ahead = max(2, int(batch_seconds / model.window_seconds))
        self._observe = observe
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._changed = threading.Condition()  # guards what follows
        self._waiting: OrderedDict[object, deque[Job]] = OrderedDict()  # of each client, next first
        self._running: list[Job] = []
        self._closed = False
        self._limit = math.inf  # padded seconds that are not known to be too much for memory
        self._worker = threading.Thread(target=self._work, name="model", daemon=True)
        self._worker.start()

    @property
    def alive(self) -> bool:
        """Whether the worker is there."""
        return self._worker.is_alive()

    @property
    def waiting(self) -> tuple[int, float]:
        """Spans that wait, and their seconds of audio."""
        with self._changed:
            seconds = [job.clip.seconds for jobs in self._waiting.values() for job in jobs]
        return len(seconds), sum(seconds)

    def close(self) -> None:
        """Decode what waits, then end the worker."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._worker.join()
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def transcribe(
        self, spans: Iterator[np.ndarray], wish: Wish, *, pieces: bool = False
    ) -> AsyncIterator[str | Part]:
        """Decode consecutive spans [S] of one recording: yields a part for each, in order, and
        before it, with ``pieces``, its text piece by piece as it is written.

        ``spans`` is read on a thread of its own, as far ahead as one batch goes. Whoever stops
        iterating takes what waits out of the queue and what is decoded out of the batch. Raises
        what reading or decoding raises.
        """
        client, loop = object(), asyncio.get_running_loop()
        ahead: deque[tuple[int, Utterance, asyncio.Queue[str | Found | Exception]]] = deque()
        begin, ended = 0, False
        try:
            while not ended or ahead:
                while not ended and len(ahead) < self._ahead:
                    span = await loop.run_in_executor(self._readers, next, spans, None)
                    ended = span is None
                    for start, clip in cut_clips(self.model, span) if span is not None else ():
                        told: asyncio.Queue[str | Found | Exception] = asyncio.Queue()
                        tell = _across(loop, told)
                        self._put(Job(client, clip, wish, tell, pieces))
                        ahead.append((begin + start, clip, told))
                    begin += 0 if span is None else len(span)
                if not ahead:
                    return
                start, clip, told = ahead.popleft()
                while isinstance(item := await told.get(), str):
                    yield item
                if isinstance(item, Exception):
                    raise item
                found = item.hypothesis
                yield Part(to_segment(start, clip, item), found.token_ids, found.logprobs)
        finally:
            self._drop(client)

    def recognise(self, waveform: np.ndarray) -> Recognition:
        """Decode one waveform [S] with word times, while the caller's thread waits."""
        segments = []
        for start, clip in cut_clips(self.model, waveform):
            told: queue.SimpleQueue[str | Found | Exception] = queue.SimpleQueue()
            self._put(Job(object(), clip, Wish(words=True), told.put))
            item = told.get()
            if isinstance(item, Exception):
                raise item
            assert isinstance(item, Found)
            segments.append(to_segment(start, clip, item))
        return Recognition(segments, len(waveform) / SAMPLE_RATE, work_seconds=0.0)

    def _put(self, job: Job) -> None:
        with self._changed:
            self._waiting.setdefault(job.client, deque()).append(job)
            self._changed.notify_all()

    def _drop(self, client: object) -> None:
        with self._changed:
            self._waiting.pop(client, None)
            for job in self._running:
                job.gone |= job.client is client

    def _work(self) -> None:
        """The worker: until closed and empty, take a batch and decode it."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                self._changed.wait_for(lambda: self._closed, timeout=PATIENCE)
                self._running = self._take()
            if self._running:
                self._decode(self._running)
            with self._changed:
                self._running = []

    def _take(self) -> list[Job]:
        """One batch: the client whose turn it is gives a span, then, round after round, every
        client whose next span goes well with those. Who gave goes to the end of the line."""
        batch: list[Job] = []
        longest = total = 0.0
        while len(batch) < self._max_utterances:
            before = len(batch)
            for client in list(self._waiting):
                job = self._waiting[client][0]
                seconds = job.clip.seconds
                padded = max(longest, seconds) * (len(batch) + 1)
                fits = (
                    job.wish == batch[0].wish
                    and padded <= min(self._batch_seconds, LIKE * (total + seconds))
                    and len(batch) < self._max_utterances
                    if batch
                    else True
                )
                if not fits:
                    continue
                batch.append(job)
                longest, total = max(longest, seconds), total + seconds
                self._waiting[client].popleft()
                if self._waiting[client]:
                    self._waiting.move_to_end(client)
                else:
                    del self._waiting[client]
            if len(batch) == before:
                break
        return batch

    def _decode(self, batch: list[Job]) -> None:
        """Decode a batch and tell everyone; what goes wrong is told those whom it concerns."""
        wish, jobs = batch[0].wish, {job.clip: job for job in batch}
        decoder = Decoder(
            self.model,
            wish.options,
            self._batch_seconds,
            self._max_utterances,
            wish.words,
            limit=self._limit,
        )

        def watch(clip: Utterance, ids: Sequence[int]) -> bool:
            job = jobs[clip]
            if job.pieces and not job.gone:
                text = str(self.model.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
                if piece := new_text(job.shown, text):
                    job.tell(piece)
                    job.shown = text
            return not job.gone

        begun = time.perf_counter()
        try:
            found = decoder.decode(list(jobs), watch)
        except Exception as error:
            logger.exception("a batch of %d spans could not be decoded", len(batch))
            for job in batch:
                job.tell(error)
            return
        took, self._limit = time.perf_counter() - begun, decoder.limit
        seconds = sum(job.clip.seconds for job in batch)
        self.speed += 0.2 * (seconds / took - self.speed)
        self._observe(len(batch), took)
        for clip, job in jobs.items():
            if job.pieces and (rest := found[clip].hypothesis.text[len(job.shown) :]):
                job.tell(rest)
            job.tell(found[clip])


def _across(
    loop: asyncio.AbstractEventLoop, told: asyncio.Queue[str | Found | Exception]
) -> Callable[[str | Found | Exception], object]:
    """Put things into a queue of an event loop from another thread."""

    def tell(item: str | Found | Exception) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(told.put_nowait, item)

    return tell
