"""A checkpoint as transformers' classes: AutoConfig, AutoModel, AutoProcessor and the pipeline.

A thin layer over what the package does itself: the model is a `SpeechModel`, the pipeline a
`Recogniser`. B utterances, S samples, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from tiny_audio.audio.io import SAMPLE_RATE, AudioInput, load_audio
from tiny_audio.config import EvaluationConfig, GenerationConfig
from tiny_audio.data.batching import collate
from tiny_audio.data.records import Utterance
from tiny_audio.errors import AudioError, ConfigError, ModelError
from tiny_audio.infer.transcribe import Recogniser
from tiny_audio.infer.transcript import Transcript
from tiny_audio.model.batch import Batch
from tiny_audio.model.build import lengths_of
from tiny_audio.model.checkpoint import find_checkpoint, load_checkpoint, read_config
from tiny_audio.model.speech import SpeechModel
from tiny_audio.text.prompt import Prompt

bases: Any = transformers  # whose signatures are wider than what is needed here


class TinyAudioConfig(bases.PreTrainedConfig):  # type: ignore[misc]
    """Tells transformers which classes to use; the settings are in the checkpoint's config.yaml."""

    model_type = "tiny_audio"


class TinyAudioModel(bases.PreTrainedModel):  # type: ignore[misc]
    """A `SpeechModel`, in `speech`; inputs are those of `TinyAudioProcessor`."""

    config_class = TinyAudioConfig
    main_input_name = "waveform"
    input_modalities = ("audio", "text")

    def __init__(self, config: TinyAudioConfig, speech: SpeechModel) -> None:
        super().__init__(config)
        self.speech = speech

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        config: TinyAudioConfig | None = None,
        revision: str | None = None,
        dtype: Any = None,
        **others: Any,
    ) -> Self:
        """Load a checkpoint, of a folder or the hub, on the CPU; `dtype` is of the frozen parts,
        by default float32. Whatever else transformers passes on has no meaning here."""
        kind = str(dtype).removeprefix("torch.") if dtype is not None else "auto"
        folder = find_checkpoint(str(name), revision=revision)
        speech = load_checkpoint(folder, device="cpu", dtype=kind)
        return cls(config or TinyAudioConfig(), speech)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.speech.device

    def forward(self, **inputs: Any) -> CausalLMOutput:
        """Logits [B, T, V], and the mean loss where the inputs have `labels`."""
        labels = inputs.pop("labels", None)
        prefill = self.speech.prefill(Batch(**inputs).to(self.device))
        logits = self.speech.decoder(
            inputs_embeds=prefill.inputs_embeds,
            attention_mask=prefill.attention_mask,
            position_ids=prefill.position_ids,
            use_cache=False,
        ).logits
        loss = None
        if labels is not None:
            shifted = logits[:, :-1].flatten(0, 1).float()
            loss = torch.nn.functional.cross_entropy(shifted, labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def generate(self, *, num_beams: int = 1, **inputs: Any) -> Tensor:
        """Ids of the transcripts [B, T], padded on the right with the end token."""
        batch = Batch(**inputs).to(self.device)
        found = self.speech.generate(batch, GenerationConfig(num_beams=num_beams))
        rows = [torch.tensor(one.token_ids, dtype=torch.long) for one in found]
        end = float(self.speech.prompt.end_id)
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=end)

    def save_pretrained(self, *given: Any, **others: Any) -> None:
        """Refused: a checkpoint is more than this class knows of."""
        raise ModelError("save_pretrained: copy the folder, or use 'tiny-audio export RUN OUT'")


class TinyAudioProcessor(bases.ProcessorMixin):  # type: ignore[misc]
    """Recordings to inputs of `TinyAudioModel`, and its ids to text."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, audio_tokens: Callable[[int], int]
    ) -> None:
        self.tokenizer, self.prompt, self.audio_tokens = tokenizer, prompt, audio_tokens

    @classmethod
    def from_pretrained(cls, name: str, *, revision: str | None = None, **others: Any) -> Self:
        """The processor of a checkpoint; its model is not loaded."""
        folder = find_checkpoint(str(name), revision=revision)
        lengths = lengths_of(read_config(folder).model, tokenizer=folder)
        return cls(lengths.prompt.tokenizer, lengths.prompt, lengths.audio_tokens)

    def __call__(
        self,
        audio: AudioInput | list[Any],
        *,
        sampling_rate: int | None = None,
        text: list[str] | None = None,
        **others: Any,
    ) -> BatchFeature:
        """Recordings that fit the model's window as one batch; with `text`, for training."""
        many = audio if isinstance(audio, list) else [audio]
        texts = [""] * len(many) if text is None else text
        clips = [
            Utterance("", load_audio(one, sample_rate=sampling_rate), said, "")
            for one, said in zip(many, texts, strict=True)
        ]
        batch = collate(clips, self.prompt, self.audio_tokens, with_labels=text is not None)
        names = "waveform waveform_lengths input_ids attention_mask audio_mask labels".split()
        found = {name: getattr(batch, name) for name in names}
        return BatchFeature({name: value for name, value in found.items() if value is not None})

    def batch_decode(self, ids: Tensor, **others: Any) -> list[str]:
        """Texts of ids [B, T]."""
        return [str(text).strip() for text in self.tokenizer.batch_decode(ids, True)]


class TinyAudioPipeline(bases.Pipeline):  # type: ignore[misc]
    """``pipeline("automatic-speech-recognition", model=..., trust_remote_code=True)``.

    Takes files, addresses, bytes, arrays, what a column of audio of `datasets` holds, and lists or
    generators of them. Recordings of any length are cut at pauses. Options: `chunk_length_s` (cut
    into pieces of at most so many seconds), `return_timestamps` (``word`` or True, for pieces),
    `batch_size`, `num_beams`. Raises AudioError for what cannot be read.
    """

    _load_processor = _load_image_processor = _load_video_processor = False
    _load_feature_extractor = _load_tokenizer = False
    _pipeline_calls_generate = False

    def _sanitize_parameters(
        self,
        chunk_length_s: float | None = None,
        return_timestamps: bool | str | None = None,
        batch_size: int | None = None,
        num_beams: int | None = None,
        generate_kwargs: dict[str, Any] | None = None,
        stride_length_s: Any = None,  # pieces do not overlap: they are cut at pauses
        ignore_warning: bool | None = None,
        **others: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        unknown = {**others, **(generate_kwargs or {})}
        beams = unknown.pop("num_beams", num_beams)
        if unknown:
            raise ConfigError(f"{', '.join(unknown)}: unknown to this pipeline; see its docstring")
        if return_timestamps not in (None, False, True, "word"):
            raise ConfigError(f"return_timestamps={return_timestamps!r}: use True or 'word'")
        forward = {
            "chunk_length": chunk_length_s or None,
            "beams": beams,
            "max_utterances": batch_size,
        }
        shown = {} if return_timestamps is None else {"return_timestamps": return_timestamps}
        return {}, {name: value for name, value in forward.items() if value is not None}, shown

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """One recording gives a dictionary, a list of them a list, a generator a generator."""
        if self._batch_size is not None:
            options = {"batch_size": self._batch_size, **options}
        _, forward, shown = self._sanitize_parameters(**options)
        forward, shown = {**self._forward_params, **forward}, {**self._postprocess_params, **shown}
        one = isinstance(inputs, (str, Path, bytes, dict, np.ndarray, torch.Tensor))
        one = one or hasattr(inputs, "read") or hasattr(inputs, "get_all_samples")
        timed = shown.get("return_timestamps") == "word"
        transcripts = self._forward([inputs] if one else inputs, word_timestamps=timed, **forward)
        found = (self.postprocess(transcript, **shown) for transcript in transcripts)
        if one:
            return next(found)
        return list(found) if isinstance(inputs, (list, tuple)) else found

    def preprocess(self, recording: Any) -> AudioInput:
        """What `load_audio` takes, 16 kHz where it is an array."""
        if hasattr(recording, "get_all_samples"):  # the decoder of datasets' audio columns
            samples = recording.get_all_samples()
            recording = {"array": samples.data, "sampling_rate": samples.sample_rate}
        if not isinstance(recording, dict):
            return recording  # type: ignore[no-any-return]
        if "sampling_rate" not in recording:
            return recording["bytes"] or recording["path"]  # type: ignore[no-any-return]
        raw = recording["raw"] if "raw" in recording else recording["array"]
        return load_audio(raw, sample_rate=recording["sampling_rate"])

    def _forward(self, recordings: Iterable[Any], **options: Any) -> Iterator[Transcript]:
        options.setdefault("max_utterances", EvaluationConfig.max_utterances)
        prepared = map(self.preprocess, recordings)
        return Recogniser(self.model.speech).transcripts(
            prepared, sample_rate=SAMPLE_RATE, **options
        )

    def postprocess(
        self, transcript: Transcript, return_timestamps: bool | str = False
    ) -> dict[str, Any]:
        """The text, and `chunks` with their times, in the form of transformers' own pipelines."""
        if transcript.error is not None:
            raise AudioError(transcript.error, reason="unreadable")
        if not return_timestamps:
            return {"text": transcript.text}
        parts: list[Any] = list(transcript.segments)
        if return_timestamps == "word":
            parts = [word for segment in parts for word in segment.words]
        times = [{"text": one.text, "timestamp": (one.start, one.end)} for one in parts]
        return {"text": transcript.text, "chunks": times}
