"""Records become utterances in worker processes, or rejects with their reasons. S samples."""

from __future__ import annotations

import math
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.audio.io import load_audio
from tiny_audio.config import DataConfig, LabelConfig
from tiny_audio.data.augment import Augmenter
from tiny_audio.data.records import Item, Record, Reject, Source, Utterance
from tiny_audio.errors import AudioError, ConfigError, LabelRejected, SampleRejected, TinyAudioError
from tiny_audio.text.labels import LabelRules, case_for

if TYPE_CHECKING:
    from tiny_audio.text.prompt import Prompt

Result = Utterance | Reject
Labels = dict[str, list[str]]  # by set, as they are written: the case is kept
T = TypeVar("T")

CHUNK = 4  # records sent to a worker at once
PREFETCH = 4  # chunks that wait for or in each worker
UNHEARD = "unheard"  # column of `extra`: the label of an utterance of which only noise is left
FULL_SCALE = 0.999  # of 1; resampling and the mean of the channels move clipped samples a little
SAMPLED_LABELS = 200  # that decide on the case, over all sets
_LEAST_LABELS = 20  # of each set
_FRAME = SAMPLE_RATE // 10  # loudness is measured over 0.1 s


@dataclass(frozen=True)
class QualityLimits:
    """What a training sample must keep to; without words only the limit on clipping holds."""

    chars_per_second: tuple[float, ...]  # lowest and highest; fast English speech has 25
    max_clipped: float  # share of samples at full scale
    silence_db: float  # dBFS, RMS of the loudest tenth of a second: below it nothing is heard

    def __post_init__(self) -> None:
        rates = self.chars_per_second
        if len(rates) != 2 or not 0 <= rates[0] < rates[1]:
            raise ConfigError(f"data.chars_per_second={[*rates]}: write [low,high], above 0")
        if not 0 <= self.max_clipped <= 1:
            raise ConfigError(f"data.max_clipped={self.max_clipped:g} is a share: use 0 to 1")

    def check(self, waveform: npt.NDArray[np.float32], label: str) -> None:
        """Raise AudioError or LabelRejected for a waveform [S] and its label that break a limit."""
        if label and (loudest := loudness(waveform)) < self.silence_db:
            heard = f"nowhere louder than {loudest:.0f} dBFS, under {self.silence_db:g}"
            raise AudioError(heard, "silent")
        clipped = np.count_nonzero(np.abs(waveform) >= FULL_SCALE) / max(len(waveform), 1)
        if clipped > self.max_clipped:
            share = f"{clipped:.1%} of the samples are clipped, over {self.max_clipped:.1%}"
            raise AudioError(share, "clipped")
        rate, (low, high) = len(label) * SAMPLE_RATE / max(len(waveform), 1), self.chars_per_second
        if label and not low <= rate <= high:
            speed = f"{rate:.3g} characters a second, not {low:g} to {high:g}"
            which = "few" if rate < low else "many"
            raise LabelRejected(speed, reason=f"{which}_chars_per_second")


def quality_limits(data: DataConfig) -> QualityLimits:
    """The limits that a configuration sets for training samples."""
    return QualityLimits(tuple(data.chars_per_second), data.max_clipped, data.silence_db)


def loudness(waveform: npt.NDArray[np.float32]) -> float:
    """RMS of the loudest tenth of a second of [S] in dBFS, a constant offset left out."""
    whole = len(waveform) // _FRAME * _FRAME
    frames = waveform[:whole].reshape(-1, _FRAME) if whole else waveform[None]
    power = float(np.var(frames, axis=1, dtype=np.float64).max()) if frames.size else 0.0
    return 10 * float(np.log10(max(power, 1e-20)))


def label_rules(labels: LabelConfig) -> LabelRules:
    """The rules that a configuration sets for labels."""
    return LabelRules(**asdict(labels))


def sample_labels(sources: Sequence[Source], labels: LabelConfig) -> Labels:
    """Some labels of each set; no audio is decoded. Sources of one name are one set."""
    rules = LabelRules("keep", labels.punctuation)
    count = max(SAMPLED_LABELS // max(len(sources), 1), _LEAST_LABELS)
    found: Labels = {source.name: [] for source in sources}
    for source in sources:
        for item in source.sample(count):
            if isinstance(item, Record):
                with suppress(LabelRejected):  # counted and said when it is read for training
                    found[source.name].append(rules.clean(item.text))
    return found


def settle_case(labels: LabelConfig, found: Labels) -> list[str]:
    """Put what ``auto`` decides into ``labels.case_of``, where nothing is yet; lines to say."""
    lines: list[str] = []
    for name, texts in found.items():
        if labels.case != "auto" or name in labels.case_of:
            continue
        case, share = case_for(texts)
        labels.case_of[name] = case
        if case != "keep":
            which = "all" if case == "lower" else "those"
            what = f"Labels of {name}: {share:.0%} are in capitals; {which} are learned in lower"
            lines.append(f"{what} case (data.labels.case=keep leaves them)")
    return lines


@dataclass(frozen=True)
class Preparer:
    """Decodes and cleans records: the part of the work that is done in worker processes.

    The limits on seconds hold for the declared duration, before anything is decoded, and for the
    real one. Augmentation comes last, so that rejects do not depend on it.
    """

    rules: LabelRules
    min_seconds: float
    max_seconds: float
    quality: QualityLimits | None = None  # of training data
    augment: Augmenter | None = None
    max_bytes: int | None = None  # of a recording at an address, see ``load_audio``

    def __call__(self, record: Record) -> Result:
        """The utterance, or why there is none; RuntimeError with the record's id for a defect."""
        try:
            return self._utterance(record)
        except SampleRejected as rejected:
            return Reject(record.id, record.source, rejected.reason, str(rejected))
        except TinyAudioError:
            raise
        except Exception as error:
            what = f"record {record.id!r} of source {record.source!r}"
            raise RuntimeError(f"{what} failed with {type(error).__name__}: {error}") from error

    def __getitem__(self, item: Item) -> Result | TinyAudioError:
        """What a DataLoader's worker gives back: raised, an error would have its traceback."""
        try:
            return item if isinstance(item, Reject) else self(item)
        except TinyAudioError as error:
            return error

    def _utterance(self, record: Record) -> Utterance:
        self._check_seconds(record.seconds)
        label = self.rules.clean(record.text, record.source)
        waveform = load_audio(
            record.audio() if callable(record.audio) else record.audio,
            max_seconds=self.max_seconds,
            offset=record.offset,
            duration=record.seconds,
            max_bytes=self.max_bytes,
        )
        self._check_seconds(len(waveform) / SAMPLE_RATE)
        if self.quality is not None:
            self.quality.check(waveform, label)
        extra = {**record.extra, "transcript": record.text}
        if self.augment is not None:
            waveform, only_noise = self.augment(
                waveform, source=record.source, id=record.id, epoch=record.epoch
            )
            if only_noise:
                label, extra[UNHEARD] = "", label
        return Utterance(record.id, waveform, label, record.source, record.speaker, extra)

    def _check_seconds(self, seconds: float | None) -> None:
        if seconds is not None and seconds < self.min_seconds:
            raise AudioError(f"{seconds:.2f} s, under {self.min_seconds:g} s", "too_short")
        if seconds is not None and seconds > self.max_seconds:
            raise AudioError(f"{seconds:.2f} s, over {self.max_seconds:g} s", "too_long")


@dataclass(frozen=True)
class TokenLimits:
    """What the model can take of an utterance: checked in the main process, where the model is."""

    prompt: Prompt
    audio_tokens: Callable[[int], int]  # of so many samples
    max_label_tokens: int  # the end token not counted

    def check(self, utterance: Utterance, batch_seconds: float = math.inf) -> Reject | None:
        """The reason why the model cannot take it, or a batch not hold it, if there is one."""
        rejected = partial(Reject, utterance.id, utterance.source)
        seconds, n_audio = utterance.seconds, self.audio_tokens(len(utterance.waveform))
        if seconds > batch_seconds:
            over = f"{seconds:.1f} s, over training.batch_seconds={batch_seconds:g}"
            return rejected("over_budget", over)
        if n_audio < 1:
            return rejected("too_short", f"{seconds:.3f} s yield no audio token")
        label = utterance.extra.get(UNHEARD, utterance.text)  # on another pass it is heard
        ids, n_prompt = self.prompt.training(n_audio, label)
        if (n_label := len(ids) - n_prompt - 1) > self.max_label_tokens:
            over = f"{n_label} label tokens, over {self.max_label_tokens}"
            return rejected("label_too_long", over)
        return None


def decode(
    items: Iterable[tuple[Item, T]], preparer: Preparer, num_workers: int
) -> Iterator[tuple[Result, T]]:
    """The items in their order, decoded; what is paired with an item stays in this process.

    Workers hold no state, so what comes out does not depend on how many there are; 0 decodes here.
    With workers, some chunks more than were asked for are read ahead.
    """
    tags = deque[T]()

    def chunks() -> Iterator[list[Item]]:
        pairs = iter(items)
        while chunk := list(islice(pairs, CHUNK if num_workers else 1)):
            tags.extend(tag for _, tag in chunk)
            yield [item for item, _ in chunk]

    records: Any = preparer  # its "indices" are the records
    loader: DataLoader[Any] = DataLoader(
        records,
        batch_sampler=chunks(),  # runs in this process
        num_workers=num_workers,
        prefetch_factor=PREFETCH if num_workers else None,
        collate_fn=list,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # or it would draw from the global one, which training uses
    )
    for result in chain.from_iterable(loader):
        if isinstance(result, TinyAudioError):
            raise result
        yield result, tags.popleft()


def _start_worker(_: int) -> None:
    """Ctrl-C is the main process's to handle: it saves, and then ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
