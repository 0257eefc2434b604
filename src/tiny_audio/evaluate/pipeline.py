"""Any speech recogniser of transformers as it comes: Whisper, wav2vec 2.0 and other CTC models.

Audio is read, and cut where it is longer than one window, exactly as for our own models; only what
lies between waveform and text is the other model's own pipeline. It tells no log-probabilities.

Legend: S samples.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.audio.segment import split_long
from tiny_audio.data.batching import length_batches
from tiny_audio.data.records import Utterance
from tiny_audio.errors import ModelError
from tiny_audio.evaluate.listener import Answer, too_short
from tiny_audio.infer.recognise import MIN_SPAN_SECONDS, join_texts
from tiny_audio.model.device import pick_device

K = TypeVar("K")

WINDOW_SECONDS = 30.0  # longer recordings are cut; what Whisper hears at once
MODEL_FAILED = "model_failed"  # the reason of a failure in the other model's code


@dataclass
class _Recording:
    """A recording on its way: its spans' texts, or what went wrong."""

    seconds: float
    texts: list[str]
    work_seconds: float = 0.0
    message: str | None = None


class PipelineListener:
    """A model of transformers behind its automatic-speech-recognition pipeline.

    Args:
        name: hub id or folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        batch_seconds, max_utterances: padded audio and clips in one batch; the clips of one call
            are sorted by length.
        beams: of the search; CTC models have none.
        language: for models that know several; None lets them guess.
        dtype: of the weights; None or ``auto``: as its files say.

    Raises ModelError if it is no speech recogniser or does not load.
    """

    def __init__(
        self,
        name: str,
        *,
        device: str,
        batch_seconds: float,
        max_utterances: int,
        beams: int = 1,
        language: str | None = None,
        dtype: str | None = None,
    ) -> None:
        self.device = pick_device(device)
        self.batch_seconds = batch_seconds
        self.max_utterances = max_utterances
        self._pipeline = _load(name, self.device, dtype or "auto")
        self._generate: dict[str, Any] = {}
        if self._pipeline.type.startswith("seq2seq"):
            self._generate = {"num_beams": beams}
            if language is not None:
                self._generate |= {"language": language}
        elif beams > 1 or language is not None:
            raise ModelError(f"{name}: a CTC model takes neither --beams nor --language.")

    def listen(self, recordings: Iterable[tuple[K, np.ndarray]]) -> Iterator[tuple[K, Answer]]:
        """Answers to (key, waveform [S] float32 16 kHz) pairs, in order, all at the end."""
        clock = time.perf_counter()
        keys: list[K] = []
        found: list[_Recording] = []
        spans: dict[Utterance, tuple[_Recording, int]] = {}
        for key, waveform in recordings:
            recording = _Recording(len(waveform) / SAMPLE_RATE, [])
            keys.append(key)
            found.append(recording)
            for start, end in split_long(waveform, WINDOW_SECONDS, MIN_SPAN_SECONDS):
                if self._hears(end - start):
                    span = Utterance(id="", waveform=waveform[start:end], text="", source="")
                    spans[span] = recording, len(recording.texts)
                    recording.texts.append("")
        for batch in length_batches(
            list(spans), batch_seconds=self.batch_seconds, max_utterances=self.max_utterances
        ):
            for span, text in zip(batch, self._texts(batch), strict=True):
                recording, place = spans[span]
                if isinstance(text, Exception):
                    recording.message = f"{type(text).__name__}: {text}".splitlines()[0]
                else:
                    recording.texts[place] = text
            before, clock = clock, time.perf_counter()
            seconds = sum(span.seconds for span in batch)
            for span in batch:
                spans[span][0].work_seconds += (clock - before) * span.seconds / seconds
        for key, recording in zip(keys, found, strict=True):
            yield key, _answer(recording)

    def _texts(self, batch: list[Utterance]) -> list[str | Exception]:
        """The texts of a batch; where it fails, of one clip after the other."""
        try:
            return list(self._run(batch))
        except torch.OutOfMemoryError:
            raise ModelError(
                f"A batch of {len(batch)} clips does not fit in the memory of {self.device}: "
                f"set --batch-seconds below {self.batch_seconds:g}."
            ) from None
        except Exception as error:  # another library's code: any of its errors is this clip's
            if len(batch) == 1:
                return [error]
            return [text for clip in batch for text in self._texts([clip])]

    def _run(self, batch: list[Utterance]) -> list[str]:
        if self._pipeline.type == "ctc" and len(batch) > 1 and self._masks:
            return self._run_ctc(batch)
        inputs = [{"raw": clip.waveform, "sampling_rate": SAMPLE_RATE} for clip in batch]
        options = {"generate_kwargs": self._generate} if self._generate else {}
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            size = 1 if self._pipeline.type.startswith("ctc") else len(batch)
            answers = self._pipeline(inputs, batch_size=size, **options)
        return [str(answer["text"]) for answer in answers]

    @property
    def _masks(self) -> bool:
        """Whether a CTC model can be told what is padding; else clips go through it singly."""
        extractor, model = self._pipeline.feature_extractor, self._pipeline.model
        takes_samples = model.main_input_name == "input_values"
        return takes_samples and bool(getattr(extractor, "return_attention_mask", False))

    @torch.inference_mode()
    def _run_ctc(self, batch: list[Utterance]) -> list[str]:
        """As the pipeline, which would also spell out the frames of the padding."""
        extractor, model = self._pipeline.feature_extractor, self._pipeline.model
        inputs = extractor(
            [clip.waveform for clip in batch],
            sampling_rate=SAMPLE_RATE,
            padding=True,
            return_tensors="pt",
        )
        ids = model(**inputs.to(self.device, dtype=model.dtype)).logits.argmax(dim=-1).cpu()
        lengths = [self._frames(len(clip.waveform)) for clip in batch]
        decode = self._pipeline.tokenizer.decode
        return [str(decode(row[:length])) for row, length in zip(ids, lengths, strict=True)]

    def _hears(self, samples: int) -> bool:
        """Whether a clip is long enough for one frame of a convolutional encoder."""
        convolves = self._pipeline.model.main_input_name == "input_values"
        return (self._frames(samples) if convolves else samples) > 0

    def _frames(self, samples: int) -> int:
        """Frames that an encoder which takes samples makes of a clip."""
        lengths = getattr(self._pipeline.model, "_get_feat_extract_output_lengths", None)
        return samples if lengths is None else int(lengths(torch.tensor(samples)))


def _load(name: str, device: torch.device, dtype: str) -> Any:
    from transformers import pipeline
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # its hints are for programmers, and come with every batch
    try:
        found = pipeline("automatic-speech-recognition", model=name, device=device, dtype=dtype)
    except Exception as error:  # config, tokenizer, weights and hub errors share no base class
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{name}: does not load as a speech recogniser: {first}") from error
    found.model.eval()
    return found


def is_transformers_folder(folder: Path) -> bool:
    """Whether a folder holds a model of transformers."""
    return (folder / "config.json").is_file()


def _answer(recording: _Recording) -> Answer:
    if recording.message is not None:
        return Answer(
            "", recording.seconds, recording.work_seconds,
            error=MODEL_FAILED, message=recording.message,
        )  # fmt: skip
    if not recording.texts:
        return too_short(recording.seconds, recording.work_seconds)
    return Answer(join_texts(recording.texts), recording.seconds, recording.work_seconds)
