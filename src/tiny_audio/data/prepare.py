"""One record becomes an utterance, or a reject with its reason. Nothing else is swallowed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.audio.io import load_audio
from tiny_audio.data.augment import Augmenter
from tiny_audio.data.quality import QualityLimits
from tiny_audio.data.utterance import Record, Reject, Utterance
from tiny_audio.errors import AudioError, SampleRejected, TinyAudioError

if TYPE_CHECKING:
    from tiny_audio.text.labels import LabelRules
    from tiny_audio.text.prompt import Prompt

UNHEARD = "unheard"  # column of `extra`: the label of an utterance of which only noise is left


@dataclass(frozen=True)
class Preparer:
    """Decodes and cleans records: the part of the work that is done in worker processes.

    Args:
        rules: how the label is cleaned; a label that teaches nothing rejects the sample.
        min_seconds, max_seconds: durations outside are rejected, by the declared duration
            before anything is decoded, then by the real one.
        quality: further limits, of training data; None: there are none.
        augment: how a usable sample is changed at last, so that what is rejected does not depend
            on it; None: not at all, as in evaluation.
        max_bytes: of a recording at an address, see ``load_audio``.
    """

    rules: LabelRules
    min_seconds: float
    max_seconds: float
    quality: QualityLimits | None = None
    augment: Augmenter | None = None
    max_bytes: int | None = None

    def __call__(self, record: Record) -> Utterance | Reject:
        """The utterance, or why there is none.

        Raises RuntimeError with the record's id for anything but a SampleRejected.
        """
        try:
            return self._utterance(record)
        except SampleRejected as rejected:
            return Reject(record.id, record.source, rejected.reason, str(rejected))
        except TinyAudioError:
            raise
        except Exception as error:
            raise RuntimeError(
                f"record {record.id!r} of source {record.source!r} failed with "
                f"{type(error).__name__}: {error}"
            ) from error

    def _utterance(self, record: Record) -> Utterance:
        if record.seconds is not None:
            self._check_seconds(record.seconds)
        label = self.rules.clean(record.text, record.source)
        audio = record.audio() if callable(record.audio) else record.audio
        waveform = load_audio(
            audio,
            max_seconds=self.max_seconds,
            offset=record.offset,
            duration=record.seconds,
            max_bytes=self.max_bytes,
        )
        self._check_seconds(len(waveform) / SAMPLE_RATE)
        if self.quality is not None:
            self.quality.check(waveform, label)
        utterance = Utterance(
            id=record.id,
            waveform=waveform,
            text=label,
            source=record.source,
            speaker=record.speaker,
            extra={**record.extra, "transcript": record.text},
        )
        return utterance if self.augment is None else self._augmented(utterance, record.epoch)

    def _augmented(self, utterance: Utterance, epoch: int) -> Utterance:
        """The utterance as pass `epoch` hears it; one without speech keeps its label aside."""
        assert self.augment is not None
        waveform, only_noise = self.augment(
            utterance.waveform, source=utterance.source, id=utterance.id, epoch=epoch
        )
        if not only_noise:
            return replace(utterance, waveform=waveform)
        extra = {**utterance.extra, UNHEARD: utterance.text}
        return replace(utterance, waveform=waveform, text="", extra=extra)

    def _check_seconds(self, seconds: float) -> None:
        if seconds < self.min_seconds:
            raise AudioError(f"{seconds:.2f} s, under {self.min_seconds:g} s", reason="too_short")
        if seconds > self.max_seconds:
            raise AudioError(f"{seconds:.2f} s, over {self.max_seconds:g} s", reason="too_long")


@dataclass(frozen=True)
class TokenLimits:
    """What the model can take of an utterance: checked in the main process, where the model is.

    Args:
        audio_tokens: samples -> audio tokens.
        max_label_tokens: most tokens of a label, the end token not counted.
    """

    prompt: Prompt
    audio_tokens: Callable[[int], int]
    max_label_tokens: int

    def check(self, utterance: Utterance) -> Reject | None:
        """The reason why the model cannot take it, if there is one."""
        n_audio = self.audio_tokens(len(utterance.waveform))
        if n_audio < 1:
            message = f"{utterance.seconds:.3f} s yield no audio token"
            return Reject(utterance.id, utterance.source, "too_short", message)
        label = utterance.extra.get(UNHEARD, utterance.text)  # on another pass it is heard
        ids, n_prompt = self.prompt.training(n_audio, label)
        n_label = len(ids) - n_prompt - 1
        if n_label > self.max_label_tokens:
            message = f"{n_label} label tokens, over {self.max_label_tokens}"
            return Reject(utterance.id, utterance.source, "label_too_long", message)
        return None
