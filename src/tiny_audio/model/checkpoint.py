"""A checkpoint on disk: what was learned, and the names of what was not.

    tiny_audio.json       format, identity of the pair, step, metrics
    config.yaml           the resolved configuration of the run
    model.safetensors     projector.* (fp32)
    adapter/              LoRA, in PEFT's own format, where there is one
    decoder.safetensors   the decoder, only where its own weights were changed
    tokenizer…, preprocessor_config.json

The frozen bases are never stored; their ids, revisions and fingerprints are. A checkpoint is
written to a temporary folder and renamed, so a kill at any moment leaves the last one whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from peft import PeftModel
from rich.console import Console
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor

from tiny_audio import config as schema
from tiny_audio.errors import CheckpointError, HubError, ModelError, first_line
from tiny_audio.hub import is_hub_id, snapshot
from tiny_audio.model.build import ASSETS, build_model, pick_device
from tiny_audio.model.lora import load_adapter, save_adapter
from tiny_audio.model.speech import SpeechModel
from tiny_audio.model.weights import check_tensors, read_tensors, write_tensors

FORMAT = 1
INFO = "tiny_audio.json"
CONFIG = "config.yaml"
WEIGHTS = "model.safetensors"
ADAPTER = "adapter"
DECODER = "decoder.safetensors"
BUNDLED = {"nano": ASSETS / "nano" / "recogniser"}
_RUN_INDEX = Path("checkpoints") / "index.json"


@dataclass(frozen=True)
class CheckpointInfo:
    """What ``tiny_audio.json`` says, without reading any weights."""

    identity: dict[str, Any]
    metadata: dict[str, Any]
    parts: list[str]  # projector, lora, decoder


def read_info(folder: Path) -> CheckpointInfo:
    """Read what a checkpoint is. Raises CheckpointError where it is none or of a later format."""
    path = folder / INFO
    if not path.is_file():
        raise CheckpointError(f"{folder}: is no checkpoint (it has no {INFO})")
    try:
        info = json.loads(path.read_text())
        found = info["format"]
        result = CheckpointInfo(info["identity"], info["metadata"], info["parts"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: is damaged ({error!r})") from None
    if found != FORMAT:
        raise CheckpointError(
            f"{folder}: has checkpoint format {found}, this version reads {FORMAT}; "
            "update tiny-audio"
        )
    return result


def read_config(folder: Path) -> schema.Config:
    """The configuration that a checkpoint was made with, checked against today's settings."""
    path = folder / CONFIG
    try:
        stored = OmegaConf.load(path)
        _rename(stored)
        merged = OmegaConf.merge(OmegaConf.structured(schema.Config), stored)
        config = OmegaConf.to_object(merged)
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: has no {CONFIG}") from None
    except (OmegaConfBaseException, ValueError) as error:
        raise CheckpointError(f"{path}: does not fit this version: {first_line(error)}") from None
    assert isinstance(config, schema.Config)
    return config


def take_revisions(cfg: schema.ModelConfig, folder: Path) -> None:
    """Take a checkpoint's revisions of encoder and decoder where the ids agree and none is set."""
    theirs = read_config(folder).model
    for mine, other in ((cfg.encoder, theirs.encoder), (cfg.decoder, theirs.decoder)):
        if mine.id == other.id and mine.revision is None:
            mine.revision = other.revision


def _rename(stored: Any) -> None:
    """Give the settings of an earlier version's configuration today's names, in place."""
    if OmegaConf.select(stored, "model.attn_implementation") in ("packed", "eager"):  # no more
        stored.model.attn_implementation = "sdpa"
    values = {
        new: value
        for old, new in schema.RENAMED.items()
        if (value := OmegaConf.select(stored, old, default=schema.MISSING)) != schema.MISSING
    }
    for key in (*schema.RENAMED, *schema.REMOVED):
        path, _, name = key.rpartition(".")
        section = OmegaConf.select(stored, path)
        if OmegaConf.is_dict(section):
            section.pop(name, None)
    for key, value in values.items():
        OmegaConf.update(stored, key, value)


def load_checkpoint(
    folder: Path | str, *, device: str | torch.device = "auto", dtype: str | None = None
) -> SpeechModel:
    """Build the pair that a checkpoint belongs to and give it what was learned. ``dtype``: of the
    frozen weights; None is as in training. Raises CheckpointError where it is damaged or
    incomplete, or the bases are not those it was trained with."""
    folder = Path(folder)
    read_info(folder)  # first, for the clearer message
    cfg = read_config(folder).model
    cfg.dtype = dtype or cfg.dtype
    model = build_model(cfg, device=pick_device(str(device)))
    load_weights(model, folder)
    return model.eval()


def resolve_model(
    name: str,
    *,
    device: str | torch.device = "auto",
    dtype: str | None = None,
    revision: str | None = None,
) -> SpeechModel:
    """Load the recogniser that ``name`` stands for; see ``find_checkpoint``."""
    return load_checkpoint(find_checkpoint(name, revision=revision), device=device, dtype=dtype)


def find_checkpoint(name: str, which: str = "best", *, revision: str | None = None) -> Path:
    """The folder of ``nano`` (bundled), of a checkpoint, of a run (``which`` of its checkpoints:
    ``best`` or ``last``) or of a checkpoint on the hub (at ``revision``). Raises HubError,
    ModelError or CheckpointError where there is none."""
    if name in BUNDLED:
        return BUNDLED[name]
    folder, index = Path(name), Path(name) / _RUN_INDEX
    if (folder / INFO).is_file():
        return folder
    if index.is_file():
        entries = json.loads(index.read_text())
        return index.parent / str(entries[which] or entries["last"])  # none may be the best
    if folder.exists():
        raise CheckpointError(
            f"{name}: is neither a checkpoint (no {INFO}) nor a run (no {_RUN_INDEX})"
        )
    if not is_hub_id(name):
        raise ModelError(f"{name}: there is no such folder; known names: {list(BUNDLED)}")
    try:
        folder = snapshot(name, revision)
    except HubError as error:
        raise HubError(f"no folder here, and on the hub: {error}") from None
    if not (folder / INFO).is_file():
        raise ModelError(f"{name}: is on the hub but is no Tiny Audio checkpoint (no {INFO})")
    return folder


def load_weights(
    model: SpeechModel, folder: Path, learn_lora: Mapping[str, Any] | None = None
) -> None:
    """Give a built model a checkpoint's weights: projector, and adapters and decoder if there;
    ``learn_lora`` is for ``load_adapter``. Raises CheckpointError, naming it, for a field of the
    identity or a tensor that differs, and for a damaged file."""
    info = read_info(folder)
    for field, value in model.identity.items():
        if (theirs := info.identity.get(field)) != value:
            raise CheckpointError(
                f"{folder}: was made with {field}={theirs}, this model has {value}; use the "
                "settings it was made with, or another checkpoint"
            )
    if "decoder" in info.parts:
        lm, state = model.causal_lm, read_tensors(folder / DECODER)
        optional = _tied_names(lm) - state.keys()
        expected = {key: value for key, value in lm.state_dict().items() if key not in optional}
        check_tensors(expected, state, folder / DECODER, CheckpointError)
        lm.load_state_dict(state, strict=False)
        model.decoder_changed = True
    state = read_tensors(folder / WEIGHTS)
    check_tensors(_projector_state(model), state, folder / WEIGHTS, CheckpointError)
    model.projector.load_state_dict({k.removeprefix("projector."): v for k, v in state.items()})
    if "lora" in info.parts:
        model.decoder = load_adapter(model.decoder, folder / ADAPTER, learn_lora)


def _projector_state(model: SpeechModel) -> dict[str, Tensor]:
    return {f"projector.{key}": value for key, value in model.projector.state_dict().items()}


def _tied_names(lm: nn.Module) -> set[str]:
    """Names under which the decoder shows a tensor that it already has under another name."""
    state = lm.state_dict(keep_vars=True)
    first = {id(value): key for key, value in reversed(state.items())}
    return state.keys() - first.values()


def save_checkpoint(
    model: SpeechModel,
    folder: Path,
    *,
    config: schema.Config,
    metadata: Mapping[str, Any],
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Write a model's projector, adapters and, where changed, decoder to ``folder``, whole or not
    at all. ``metadata``: JSON values, such as step and metrics; ``extra`` writes further files to
    the folder it gets. Raises CheckpointError where the disk is full or cannot be written."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    old = part.with_suffix(".old")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _write(model, part, config, metadata)
        if extra is not None:
            extra(part)
        for path in part.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: the checkpoint could not be written ({error}); free some space or choose "
            "another output_dir. Earlier checkpoints are untouched"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(
    model: SpeechModel, folder: Path, config: schema.Config, metadata: Mapping[str, Any]
) -> None:
    parts = ["projector"]
    write_tensors(_projector_state(model), folder / WEIGHTS)
    if isinstance(model.decoder, PeftModel):
        parts.append("lora")
        save_adapter(model.decoder, folder / ADAPTER, base=config.model.decoder.id)
    if model.decoder_changed:
        parts.append("decoder")
        lm = model.causal_lm
        tied = _tied_names(lm)
        own = {  # without adapters
            key.replace(".base_layer.", "."): value
            for key, value in lm.state_dict().items()
            if ".lora_" not in key and key not in tied
        }
        write_tensors(own, folder / DECODER)
    model.tokenizer.save_pretrained(folder)
    mel = model.features
    extractor = WhisperFeatureExtractor(mel.n_mels, n_fft=mel.n_fft, hop_length=mel.hop)
    extractor.save_pretrained(folder)
    OmegaConf.save(OmegaConf.structured(config), folder / CONFIG)
    info = {"format": FORMAT, "parts": parts, "identity": model.identity}
    info["metadata"] = dict(metadata)
    (folder / INFO).write_text(json.dumps(info, indent=2) + "\n")


def merge_command(folder: str, out: str, device: str = "auto") -> None:
    """Write a checkpoint to ``out`` whose decoder has the adapters of ``folder`` folded in. In fp32
    whatever the compute dtype: bf16 would round away most of a small update. Raises CheckpointError
    where there are no adapters or ``out`` exists."""
    source, target = find_checkpoint(folder), Path(out)
    info = read_info(source)
    if "lora" not in info.parts:
        raise CheckpointError(f"{source}: has no adapters to merge (it holds {info.parts})")
    if target.exists():
        raise CheckpointError(f"{target}: exists; choose a new folder for the merged checkpoint")
    model = load_checkpoint(source, device=device, dtype="float32")
    wrapped: Any = model.decoder
    adapters = sum(".lora_A." in name for name, _ in wrapped.named_parameters())
    model.decoder = wrapped.merge_and_unload(safe_merge=True)
    model.decoder_changed = True
    metadata = {**info.metadata, "merged_from": source.name}
    save_checkpoint(model, target, config=read_config(source), metadata=metadata)
    Console().print(
        f"Merged {adapters} adapters into the decoder, which is now stored whole: {target}",
        highlight=False,
    )
