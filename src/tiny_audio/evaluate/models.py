"""Models that can be evaluated: ours, and any speech recogniser of transformers as it comes.

Foreign models (Whisper, wav2vec 2.0 and other CTC models) get audio that is read and cut as for our
own; between waveform and text is their own pipeline. They have no log-probabilities. S samples.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.audio.segment import split_long
from tiny_audio.config import GenerationConfig
from tiny_audio.data.batching import length_batches
from tiny_audio.data.records import Utterance
from tiny_audio.errors import ConfigError, ModelError, first_line
from tiny_audio.evaluate.results import Record
from tiny_audio.hub import MODEL_FILES, SMALL_FILES, is_hub_id, snapshot
from tiny_audio.infer.recognise import MIN_SPAN_SECONDS, join_texts, recognise
from tiny_audio.model.build import pick_device
from tiny_audio.model.checkpoint import BUNDLED, INFO, find_checkpoint, resolve_model
from tiny_audio.model.quantise import quantise
from tiny_audio.model.speech import SpeechModel

WINDOW_SECONDS = 30.0  # longer recordings are cut for foreign models; what Whisper hears at once
LEAST_SAMPLES = 400  # that a foreign model is given: one frame of wav2vec 2.0
MODEL_FAILED = "model_failed"  # an error in the foreign model's code

# Records without a hypothesis, with waveforms [S] float32 16 kHz; and what fills them, in order.
Recordings = Iterable[tuple[Record, np.ndarray]]
Transcribe = Callable[[Recordings], Iterator[Record]]


@dataclass(frozen=True)
class Options:
    """How every model of an evaluation is used; a batch's size is in seconds of padded audio.

    language: of foreign models, None lets them guess. quantise: ``int8`` of ours. dtype: None: as
    in training, or as a foreign model's files say. max_bytes: of a recording at an address.
    limit: only the first so many utterances of each set.
    """

    device: str
    batch_seconds: float
    max_utterances: int
    beams: int = 1
    language: str | None = None
    quantise: str | None = None
    dtype: str | None = None
    max_bytes: int | None = None
    limit: int | None = None


class ModelFolder(NamedTuple):
    """A model that is there, in the folder `path`."""

    name: str
    path: str
    ours: bool


def find_model(name: str, checkpoint: str) -> ModelFolder:
    """What `name` stands for: `nano`, a checkpoint, a run's folder, or a model of transformers.

    Raises HubError, ModelError or CheckpointError where it is none of these.
    """
    if checkpoint not in ("best", "last"):
        raise ConfigError(f"--checkpoint {checkpoint}: use best or last.")
    folder = Path(name).expanduser()
    if name not in BUNDLED and not folder.exists() and is_hub_id(name):
        ours = (snapshot(name, files=SMALL_FILES) / INFO).is_file()
        folder = snapshot(name, files=None if ours else MODEL_FILES)
    if (folder / "config.json").is_file() and not (folder / INFO).is_file():
        return ModelFolder(name, str(folder), False)
    return ModelFolder(name, str(find_checkpoint(str(folder), checkpoint)), True)


def open_model(found: ModelFolder, options: Options) -> Transcribe:
    """Load a model; raises ModelError or CheckpointError if it does not load."""
    if not found.ours:
        if options.quantise is not None:
            raise ConfigError(f"{found.name}: takes no --quantise, it is none of ours.")
        return TransformersAdapter(found.path, options).transcribe
    if options.language is not None:
        raise ConfigError(f"{found.name}: takes no --language.")
    model = resolve_model(found.path, device=options.device, dtype=options.dtype)
    return partial(
        transcribe,
        quantise(model, options.quantise),
        options=GenerationConfig(num_beams=options.beams),
        batch_seconds=options.batch_seconds,
        max_utterances=options.max_utterances,
    )


def transcribe(model: SpeechModel, recordings: Recordings, **options: Any) -> Iterator[Record]:
    """Let one of our own models fill records; `options` are those of `recognise`."""
    keyed = (((r, model.audio_tokens(len(w)) > 0), w) for r, w in recordings)
    for (record, long_enough), found in recognise(model, keyed, **options):
        done = replace(record, duration=found.seconds, seconds=found.work_seconds)
        if not long_enough:
            yield _too_short(done)
            continue
        yield replace(
            done,
            hypothesis=found.text,
            logprob=found.logprob,
            tokens=sum(segment.tokens for segment in found.segments),
            finished=found.finished,
        )


def _too_short(record: Record) -> Record:
    """One that failed before keeps its reason."""
    message = f"{record.duration:.3f} s are too short for the model"
    return record if record.error else replace(record, error="too_short", message=message)


class TransformersAdapter:
    """A foreign model, in a folder, behind transformers' automatic-speech-recognition pipeline.

    Raises ModelError if it is no speech recogniser, does not load, or lacks one of the options.
    """

    def __init__(self, name: str, options: Options) -> None:
        self.device = pick_device(options.device)
        self.options = options
        self._pipeline = _load(name, self.device, options.dtype or "auto")
        self._is_ctc = not self._pipeline.type.startswith("seq2seq")
        self._kwargs: dict[str, Any] = {}
        if not self._is_ctc:
            language = {} if options.language is None else {"language": options.language}
            self._kwargs = {"generate_kwargs": {"num_beams": options.beams, **language}}
        elif options.beams > 1 or options.language is not None:
            raise ModelError(f"{name}: a CTC model takes neither --beams nor --language.")

    def transcribe(self, recordings: Recordings) -> Iterator[Record]:
        """Fill records, all at the end."""
        began = time.perf_counter()
        waiting = list(recordings)
        spans = [_spans(waveform) for _, waveform in waiting]
        texts: dict[Utterance, str | Exception] = {}
        for batch in length_batches(
            list(chain.from_iterable(spans)),
            batch_seconds=self.options.batch_seconds,
            max_utterances=self.options.max_utterances,
        ):
            texts.update(zip(batch, self._texts(batch), strict=True))
        elapsed = time.perf_counter() - began
        total = sum(len(waveform) for _, waveform in waiting)
        for (record, waveform), clips in zip(waiting, spans, strict=True):
            seconds = elapsed * len(waveform) / max(total, 1)
            done = replace(record, duration=len(waveform) / SAMPLE_RATE, seconds=seconds)
            found = [texts[clip] for clip in clips]
            failed = next((text for text in found if isinstance(text, Exception)), None)
            if not found:
                yield _too_short(done)
            elif failed is not None:
                message = f"{type(failed).__name__}: {first_line(failed)}"
                yield replace(done, error=MODEL_FAILED, message=message)
            else:
                yield replace(done, hypothesis=join_texts(map(str, found)))

    def _texts(self, batch: list[Utterance]) -> list[str | Exception]:
        """The texts of a batch; where it fails, of one clip after the other."""
        inputs = [{"raw": clip.waveform, "sampling_rate": SAMPLE_RATE} for clip in batch]
        # CTC models, which write out the frames of padding too, get their clips one by one.
        size = 1 if self._is_ctc else len(batch)
        try:
            with warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter("ignore")
                answers = self._pipeline(inputs, batch_size=size, **self._kwargs)
            return [str(answer["text"]) for answer in answers]
        except torch.OutOfMemoryError:
            raise ModelError(
                f"A batch of {size} clips does not fit in the memory of {self.device}: "
                f"set --batch-seconds below {self.options.batch_seconds:g}."
            ) from None
        except Exception as error:  # another library's code: any of its errors is this clip's
            if len(batch) == 1:
                return [error]
            return [text for clip in batch for text in self._texts([clip])]


def _spans(waveform: np.ndarray) -> list[Utterance]:
    """A waveform [S] in pieces of at most one window; none where it is too short."""
    return [
        Utterance(id="", waveform=waveform[start:end], text="", source="")
        for start, end in split_long(waveform, WINDOW_SECONDS, MIN_SPAN_SECONDS)
        if end - start >= LEAST_SAMPLES
    ]


def _load(name: str, device: torch.device, dtype: str) -> Any:
    from transformers import pipeline
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # its hints are for programmers, and come with every batch
    try:
        found = pipeline("automatic-speech-recognition", model=name, device=device, dtype=dtype)
    except Exception as error:  # config, tokenizer, weights and hub errors share no base class
        why = first_line(error)
        raise ModelError(f"{name}: does not load as a speech recogniser: {why}") from error
    found.model.eval()
    return found
