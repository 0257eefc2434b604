"""Models that can be evaluated: ours, and any speech recogniser of transformers as it comes.

Foreign models (Whisper, wav2vec 2.0 and other CTC models) hear audio that is read, and cut where
it is longer than one window, exactly as for our own; only what lies between waveform and text is
their own pipeline. They tell no log-probabilities. Legend: S samples.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.audio.segment import split_long
from tiny_audio.config import GenerationConfig
from tiny_audio.data.batching import length_batches
from tiny_audio.data.records import Utterance
from tiny_audio.errors import ConfigError, ModelError
from tiny_audio.evaluate.results import Record
from tiny_audio.hub import MODEL_FILES, SMALL_FILES, is_hub_id, snapshot
from tiny_audio.infer.recognise import MIN_SPAN_SECONDS, join_texts, recognise
from tiny_audio.model.build import pick_device
from tiny_audio.model.checkpoint import BUNDLED, INFO, find_checkpoint, resolve_model
from tiny_audio.model.quantise import quantise
from tiny_audio.model.speech import SpeechModel

CHECKPOINTS = ("best", "last")
WINDOW_SECONDS = 30.0  # longer recordings are cut for foreign models; what Whisper hears at once
TOO_SHORT = "too_short"  # for a single audio token: a failure, not an empty hypothesis
MODEL_FAILED = "model_failed"  # an error in the foreign model's code


@dataclass(frozen=True)
class Options:
    """How every model of an evaluation is used.

    batch_seconds, max_utterances: padded audio and clips in one batch. beams: of the search.
    language: for foreign models that know several; None lets them guess. quantise: ``int8``
    of ours. dtype: None: as in training, or as the other model's files say. max_bytes:
    of a recording at an address, see `load_audio`.
    """

    device: str
    batch_seconds: float
    max_utterances: int
    beams: int = 1
    language: str | None = None
    quantise: str | None = None
    dtype: str | None = None
    max_bytes: int | None = None


@dataclass(frozen=True)
class ModelFolder:
    """A model that is there, in the folder `path`."""

    name: str
    path: str
    ours: bool


def find_model(name: str, checkpoint: str) -> ModelFolder:
    """What `name` stands for: `nano`, a checkpoint, a run's folder, or a model of transformers.

    Args:
        checkpoint: ``best`` or ``last``, of a run.

    Raises HubError, ModelError or CheckpointError where it is none of these.
    """
    if checkpoint not in CHECKPOINTS:
        raise ConfigError(f"--checkpoint {checkpoint}: use {' or '.join(CHECKPOINTS)}.")
    if name in BUNDLED:
        return ModelFolder(name, str(find_checkpoint(name, checkpoint)), True)
    folder = Path(name).expanduser()
    if not folder.exists() and is_hub_id(name):
        ours = (snapshot(name, files=SMALL_FILES) / INFO).is_file()
        folder = snapshot(name, files=None if ours else MODEL_FILES)
    if (folder / "config.json").is_file() and not (folder / INFO).is_file():
        return ModelFolder(name, str(folder), False)
    return ModelFolder(name, str(find_checkpoint(str(folder), checkpoint)), True)


def open_model(found: ModelFolder, options: Options) -> SpeechAdapter | TransformersAdapter:
    """Load a model; raises ModelError or CheckpointError if it does not load."""
    if not found.ours:
        if options.quantise is not None:
            raise ConfigError(f"{found.name}: takes no --quantise, it is none of ours.")
        return TransformersAdapter(found.path, options)
    if options.language is not None:
        raise ConfigError(f"{found.name}: takes no --language.")
    model = quantise(
        resolve_model(found.path, device=options.device, dtype=options.dtype), options.quantise
    )
    generation = GenerationConfig(num_beams=options.beams)
    return SpeechAdapter(model, generation, options.batch_seconds, options.max_utterances)


def _too_short(record: Record, seconds: float, work_seconds: float) -> Record:
    """The failure of a recording that is too short; one that failed before keeps its reason."""
    failed = replace(record, duration=seconds, seconds=work_seconds)
    if record.error is not None:
        return failed
    message = f"{seconds:.3f} s are too short for the model"
    return replace(failed, error=TOO_SHORT, message=message)


@dataclass(frozen=True)
class SpeechAdapter:
    """One of our own models; batch_seconds, max_utterances: as in `Options`."""

    model: SpeechModel
    generation: GenerationConfig
    batch_seconds: float
    max_utterances: int

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    def transcribe(self, recordings: Iterable[tuple[Record, np.ndarray]]) -> Iterator[Record]:
        """Fill records without a hypothesis from waveforms [S] float32 16 kHz; in order."""
        keyed = (((r, self.model.audio_tokens(len(w)) > 0), w) for r, w in recordings)
        for (record, long_enough), found in recognise(
            self.model,
            keyed,
            options=self.generation,
            batch_seconds=self.batch_seconds,
            max_utterances=self.max_utterances,
        ):
            if not long_enough:
                yield _too_short(record, found.seconds, found.work_seconds)
                continue
            yield replace(
                record,
                hypothesis=found.text,
                duration=found.seconds,
                seconds=found.work_seconds,
                logprob=found.logprob,
                tokens=sum(segment.tokens for segment in found.segments),
                finished=found.finished,
            )


@dataclass
class _Recording:
    """A recording on its way through a foreign model: its spans' texts, or what went wrong."""

    record: Record
    duration: float
    texts: list[str] = field(default_factory=list)
    seconds: float = 0.0
    message: str | None = None

    def result(self) -> Record:
        if self.message is None and not self.texts:
            return _too_short(self.record, self.duration, self.seconds)
        text = join_texts(self.texts) if self.message is None else ""
        done = replace(self.record, hypothesis=text, duration=self.duration, seconds=self.seconds)
        if self.message is None:
            return done
        return replace(done, error=MODEL_FAILED, message=self.message)


class TransformersAdapter:
    """A foreign model behind transformers' automatic-speech-recognition pipeline.

    Args:
        name: hub id or folder.

    Raises ModelError if it is no speech recogniser, does not load, or lacks one of the options.
    """

    def __init__(self, name: str, options: Options) -> None:
        self.device = pick_device(options.device)
        self.options = options
        self._pipeline = _load(name, self.device, options.dtype or "auto")
        self._takes_samples = self._pipeline.model.main_input_name == "input_values"
        self._generate: dict[str, Any] = {}
        if self._pipeline.type.startswith("seq2seq"):
            self._generate = {"num_beams": options.beams}
            if options.language is not None:
                self._generate |= {"language": options.language}
        elif options.beams > 1 or options.language is not None:
            raise ModelError(f"{name}: a CTC model takes neither --beams nor --language.")

    def transcribe(self, recordings: Iterable[tuple[Record, np.ndarray]]) -> Iterator[Record]:
        """Fill records from waveforms [S] float32 16 kHz; in order, all at the end."""
        clock = time.perf_counter()
        found: list[_Recording] = []
        spans: dict[Utterance, tuple[_Recording, int]] = {}
        for record, waveform in recordings:
            recording = _Recording(record, len(waveform) / SAMPLE_RATE)
            found.append(recording)
            for start, end in split_long(waveform, WINDOW_SECONDS, MIN_SPAN_SECONDS):
                if self._is_long_enough(end - start):
                    span = Utterance(id="", waveform=waveform[start:end], text="", source="")
                    spans[span] = recording, len(recording.texts)
                    recording.texts.append("")
        for batch in length_batches(
            list(spans),
            batch_seconds=self.options.batch_seconds,
            max_utterances=self.options.max_utterances,
        ):
            for span, text in zip(batch, self._texts(batch), strict=True):
                recording, position = spans[span]
                if isinstance(text, Exception):
                    recording.message = f"{type(text).__name__}: {text}".splitlines()[0]
                else:
                    recording.texts[position] = text
            before, clock = clock, time.perf_counter()
            seconds = sum(span.seconds for span in batch)
            for span in batch:
                spans[span][0].seconds += (clock - before) * span.seconds / seconds
        yield from (recording.result() for recording in found)

    def _texts(self, batch: list[Utterance]) -> list[str | Exception]:
        """The texts of a batch; where it fails, of one clip after the other."""
        try:
            return list(self._run(batch))
        except torch.OutOfMemoryError:
            raise ModelError(
                f"A batch of {len(batch)} clips does not fit in the memory of {self.device}: "
                f"set --batch-seconds below {self.options.batch_seconds:g}."
            ) from None
        except Exception as error:  # another library's code: any of its errors is this clip's
            if len(batch) == 1:
                return [error]
            return [text for clip in batch for text in self._texts([clip])]

    def _run(self, batch: list[Utterance]) -> list[str]:
        ctc = self._pipeline.type.startswith("ctc")
        extractor, model = self._pipeline.feature_extractor, self._pipeline.model
        takes_mask = bool(getattr(extractor, "return_attention_mask", False))
        if self._pipeline.type == "ctc" and len(batch) > 1 and self._takes_samples and takes_mask:
            return self._run_ctc(batch, extractor, model)
        inputs = [{"raw": clip.waveform, "sampling_rate": SAMPLE_RATE} for clip in batch]
        kwargs = {"generate_kwargs": self._generate} if self._generate else {}
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            # A CTC model that cannot be told what is padding gets its clips one by one.
            answers = self._pipeline(inputs, batch_size=1 if ctc else len(batch), **kwargs)
        return [str(answer["text"]) for answer in answers]

    @torch.inference_mode()
    def _run_ctc(self, batch: list[Utterance], extractor: Any, model: Any) -> list[str]:
        """As the pipeline, which would also spell out the frames of the padding."""
        waveforms = [clip.waveform for clip in batch]
        inputs = extractor(
            waveforms, sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt"
        ).to(self.device, dtype=model.dtype)
        ids = model(**inputs).logits.argmax(dim=-1).cpu()
        decode = self._pipeline.tokenizer.decode
        lengths = [self._frames(len(waveform)) for waveform in waveforms]
        return [str(decode(row[:length])) for row, length in zip(ids, lengths, strict=True)]

    def _is_long_enough(self, samples: int) -> bool:
        """Whether a clip is long enough for one frame of a convolutional encoder."""
        return (self._frames(samples) if self._takes_samples else samples) > 0

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
