"""From a name to a model that can be evaluated: ours, or any recogniser of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tiny_audio.config import GenerationConfig
from tiny_audio.errors import ConfigError
from tiny_audio.evaluate.listener import Listener, SpeechListener
from tiny_audio.evaluate.pipeline import PipelineListener, is_transformers_folder
from tiny_audio.model.checkpoint import INFO
from tiny_audio.model.quantise import quantise
from tiny_audio.model.resolve import BUNDLED, find_checkpoint, resolve_model

CHECKPOINTS = ("best", "last")


@dataclass(frozen=True)
class Found:
    """A model that is there: `path` is a folder, or a hub id where it was not fetched yet."""

    name: str
    path: str
    ours: bool


@dataclass(frozen=True)
class Options:
    """How every model of an evaluation is used, see `SpeechListener` and `PipelineListener`."""

    device: str
    batch_seconds: float
    max_utterances: int
    beams: int
    language: str | None
    quantise: str | None = None  # int8 or int4, of ours


def find_model(name: str, checkpoint: str) -> Found:
    """What `name` stands for: `nano`, a checkpoint, a run's folder, or a model of transformers.

    Args:
        checkpoint: ``best`` or ``last``, of a run.

    Raises ModelError or CheckpointError where it is none of these.
    """
    if checkpoint not in CHECKPOINTS:
        raise ConfigError(f"--checkpoint {checkpoint}: use {' or '.join(CHECKPOINTS)}.")
    folder = Path(name).expanduser()
    if name not in BUNDLED and folder.is_dir():
        foreign = is_transformers_folder(folder) and not (folder / INFO).is_file()
        if foreign:
            return Found(name, str(folder), False)
    elif name not in BUNDLED and _foreign_on_hub(name):
        return Found(name, name, False)
    return Found(name, str(find_checkpoint(str(folder), checkpoint)), True)


def open_model(found: Found, options: Options) -> Listener:
    """Load a model; raises ModelError or CheckpointError if it does not load."""
    if found.ours:
        if options.language is not None:
            raise ConfigError(f"{found.name}: takes no --language.")
        return SpeechListener(
            quantise(resolve_model(found.path, device=options.device), options.quantise),
            GenerationConfig(num_beams=options.beams),
            options.batch_seconds,
            options.max_utterances,
        )
    if options.quantise is not None:
        raise ConfigError(f"{found.name}: takes no --quantise, it is none of ours.")
    return PipelineListener(
        found.path,
        device=options.device,
        batch_seconds=options.batch_seconds,
        max_utterances=options.max_utterances,
        beams=options.beams,
        language=options.language,
    )


def _foreign_on_hub(name: str) -> bool:
    """Whether the hub, or what was fetched of it, has this model and it is none of ours."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    def has(file: str) -> bool:
        try:
            return bool(hf_hub_download(name, file))
        except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
            return False  # not there, or out of reach: `find_checkpoint` says it in a line

    return not has(INFO) and has("config.json")
