"""From a name to a model that can be evaluated: ours, or any recogniser of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tiny_audio.config import GenerationConfig
from tiny_audio.errors import ConfigError
from tiny_audio.evaluate.listener import Listener, SpeechListener
from tiny_audio.evaluate.pipeline import PipelineListener, is_transformers_folder
from tiny_audio.hub import MODEL_FILES, SMALL_FILES, is_hub_id, snapshot
from tiny_audio.model.checkpoint import BUNDLED, INFO, find_checkpoint, resolve_model
from tiny_audio.model.quantise import quantise

CHECKPOINTS = ("best", "last")


@dataclass(frozen=True)
class Found:
    """A model that is there, in the folder `path`."""

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
    quantise: str | None = None  # int8, of ours


def find_model(name: str, checkpoint: str) -> Found:
    """What `name` stands for: `nano`, a checkpoint, a run's folder, or a model of transformers.

    Args:
        checkpoint: ``best`` or ``last``, of a run.

    Raises HubError, ModelError or CheckpointError where it is none of these.
    """
    if checkpoint not in CHECKPOINTS:
        raise ConfigError(f"--checkpoint {checkpoint}: use {' or '.join(CHECKPOINTS)}.")
    if name in BUNDLED:
        return Found(name, str(find_checkpoint(name, checkpoint)), True)
    folder = Path(name).expanduser()
    if not folder.exists() and is_hub_id(name):
        ours = (snapshot(name, files=SMALL_FILES) / INFO).is_file()
        folder = snapshot(name, files=None if ours else MODEL_FILES)
    if is_transformers_folder(folder) and not (folder / INFO).is_file():
        return Found(name, str(folder), False)
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
