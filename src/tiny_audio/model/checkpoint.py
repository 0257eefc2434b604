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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tiny_audio import config as schema
from tiny_audio.errors import CheckpointError
from tiny_audio.model.build import build_model
from tiny_audio.model.device import pick_device
from tiny_audio.model.lora import load_adapter
from tiny_audio.model.speech import SpeechModel

FORMAT = 1
INFO = "tiny_audio.json"
CONFIG = "config.yaml"
WEIGHTS = "model.safetensors"
ADAPTER = "adapter"
DECODER = "decoder.safetensors"


@dataclass(frozen=True)
class CheckpointInfo:
    """What ``tiny_audio.json`` says, without reading any weights."""

    folder: Path
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
        result = CheckpointInfo(folder, info["identity"], info["metadata"], info["parts"])
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
        first = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: does not fit this version: {first}") from None
    assert isinstance(config, schema.Config)
    return config


def take_revisions(cfg: schema.ModelConfig, folder: Path) -> None:
    """Let a model have the very encoder and decoder that a checkpoint was trained with.

    Parts of another id, and revisions that are set, stay as they are.
    """
    theirs = read_config(folder).model
    for mine, other in ((cfg.encoder, theirs.encoder), (cfg.decoder, theirs.decoder)):
        if mine.id == other.id and mine.revision is None:
            mine.revision = other.revision


def _rename(stored: Any) -> None:
    """Give the settings of an earlier version's configuration today's names, in place."""
    for key in schema.REMOVED:
        path, _, name = key.rpartition(".")
        section = OmegaConf.select(stored, path)
        if OmegaConf.is_dict(section):
            section.pop(name, None)
    for path, names in schema.RENAMED.items():
        section = OmegaConf.select(stored, path)
        for old, new in names.items():
            if not OmegaConf.is_dict(section) or old not in section:
                continue
            if isinstance(new, str):
                section[new] = section.pop(old)
            elif OmegaConf.is_config(section[old]):  # else the name still is one, of a number
                parts = section.pop(old)
                for part, name in new.items():
                    section[name] = OmegaConf.select(parts, part)


def load_checkpoint(
    folder: Path | str,
    *,
    device: str | torch.device = "auto",
    dtype: str | None = None,
    attn_implementation: str | None = None,
) -> SpeechModel:
    """Build the pair that a checkpoint belongs to and give it what was learned.

    Args:
        folder: the checkpoint.
        device: where the model goes.
        dtype: of the frozen weights; None: as in training.
        attn_implementation: None: as in training.

    Raises:
        CheckpointError: damaged, incomplete, or the bases are not those it was trained with.
    """
    folder = Path(folder)
    read_info(folder)  # first, for the clearer message
    cfg = read_config(folder).model
    cfg.dtype = dtype or cfg.dtype
    cfg.attn_implementation = attn_implementation or cfg.attn_implementation
    where = device if isinstance(device, torch.device) else pick_device(device)
    model = build_model(cfg, device=where)
    load_weights(model, folder)
    return model.eval()


def load_weights(model: SpeechModel, folder: Path, *, trainable_adapter: bool = False) -> None:
    """Give a built model a checkpoint's weights: projector, and adapters and decoder if there.

    Raises:
        CheckpointError: another pair or projector (the field is named), a missing or unexpected
            tensor (it is named), a damaged file.
    """
    info = read_info(folder)
    check_identity(info, model.identity)
    if "decoder" in info.parts:
        lm = model.causal_lm
        _load_into(lm, _read(folder / DECODER), folder / DECODER, tied=tied_names(lm))
        model.decoder_changed = True
    state = _read(folder / WEIGHTS)
    prefix = "projector."
    foreign = [key for key in state if not key.startswith(prefix)]
    if foreign:
        raise CheckpointError(f"{folder / WEIGHTS}: has an unexpected tensor '{foreign[0]}'")
    own = {key.removeprefix(prefix): value for key, value in state.items()}
    _load_into(model.projector, own, folder / WEIGHTS, prefix=prefix)
    if "lora" in info.parts:
        model.decoder = load_adapter(model.decoder, folder / ADAPTER, trainable=trainable_adapter)


def check_identity(info: CheckpointInfo, mine: Mapping[str, Any]) -> None:
    """Raise CheckpointError, naming the field, where a checkpoint belongs to another model."""
    for field, value in mine.items():
        theirs = info.identity.get(field)
        if theirs != value:
            raise CheckpointError(
                f"{info.folder}: was made with {field}={theirs}, this model has {value}; use the "
                "settings it was made with, or another checkpoint"
            )


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: has no {path.name}; the checkpoint is incomplete")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is damaged or cut short ({error})") from None


def _load_into(
    module: nn.Module,
    state: dict[str, Tensor],
    path: Path,
    *,
    prefix: str = "",
    tied: Iterable[str] = (),
) -> None:
    """Copy tensors into a module, strictly."""
    expected = module.state_dict()
    missing = sorted(expected.keys() - state.keys() - set(tied))
    extra = sorted(state.keys() - expected.keys())
    for what, keys in (("misses the tensor", missing), ("has an unexpected tensor", extra)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise CheckpointError(f"{path}: {what} '{prefix}{keys[0]}'{more}")
    for key, value in state.items():
        if expected[key].shape != value.shape:
            raise CheckpointError(
                f"{path}: '{prefix}{key}' is {list(value.shape)}, this model has "
                f"{list(expected[key].shape)}"
            )
    module.load_state_dict(state, strict=False)


def tied_names(lm: nn.Module) -> set[str]:
    """Names under which the decoder shows a tensor that it already has under another name."""
    seen: dict[int, str] = {}
    twice = set()
    for key, value in lm.state_dict(keep_vars=True).items():
        if id(value) in seen:
            twice.add(key)
        seen.setdefault(id(value), key)
    return twice
