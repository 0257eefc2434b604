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
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from peft import PeftModel
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor

from tiny_audio import config as schema
from tiny_audio.errors import CheckpointError, HubError, ModelError
from tiny_audio.hub import is_hub_id, snapshot
from tiny_audio.model.build import ASSETS, build_model, pick_device
from tiny_audio.model.decoder import embedding_table
from tiny_audio.model.lora import load_adapter, lora_report, save_adapter
from tiny_audio.model.speech import SpeechModel
from tiny_audio.model.weights import check_tensors, read_tensors

FORMAT = 1
INFO = "tiny_audio.json"
CONFIG = "config.yaml"
WEIGHTS = "model.safetensors"
ADAPTER = "adapter"
DECODER = "decoder.safetensors"
BUNDLED = {"nano": ASSETS / "nano" / "recogniser"}
_RUN_INDEX = Path("checkpoints") / "index.json"
_TOLERANCE = 1e-3  # largest difference of a logit that rounding in fp32 explains, with room
_PROBE_TOKENS = 64  # on which a merge compares logits


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
    if OmegaConf.select(stored, "model.attn_implementation") == "packed":  # is no more
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
    folder: Path | str,
    *,
    device: str | torch.device = "auto",
    dtype: str | None = None,
) -> SpeechModel:
    """Build the pair that a checkpoint belongs to and give it what was learned.

    ``dtype``: of the frozen weights; None is as in training.

    Raises:
        CheckpointError: damaged, incomplete, or the bases are not those it was trained with.
    """
    folder = Path(folder)
    read_info(folder)  # first, for the clearer message
    cfg = read_config(folder).model
    cfg.dtype = dtype or cfg.dtype
    where = device if isinstance(device, torch.device) else pick_device(device)
    model = build_model(cfg, device=where)
    load_weights(model, folder)
    return model.eval()


def resolve_model(
    name: str, *, device: str | torch.device = "auto", dtype: str | None = None
) -> SpeechModel:
    """Load the recogniser called ``name`` as ``load_checkpoint`` does, ready to transcribe.

    Raises:
        HubError, ModelError, CheckpointError: there is no such model, or it does not load.
    """
    return load_checkpoint(find_checkpoint(name), device=device, dtype=dtype)


def find_checkpoint(name: str, which: str = "best") -> Path:
    """The checkpoint folder that ``name`` stands for.

    ``name``: ``nano`` (bundled), a checkpoint folder, a run folder (``which`` of its checkpoints:
    ``best`` or ``last``), or the id of a checkpoint on the Hugging Face Hub.
    """
    if name in BUNDLED:
        return BUNDLED[name]
    folder, index = Path(name), Path(name) / _RUN_INDEX
    if (folder / INFO).is_file():
        return folder
    if index.is_file():
        entries = json.loads(index.read_text())
        chosen = entries.get(which) or entries.get("last")
        if not chosen:
            raise CheckpointError(f"{folder}: this run has not saved a checkpoint yet")
        return index.parent / str(chosen)
    if folder.exists():
        raise CheckpointError(
            f"{name}: is neither a checkpoint (no {INFO}) nor a run (no {_RUN_INDEX})"
        )
    near = get_close_matches(name, BUNDLED, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    if not is_hub_id(name):
        raise ModelError(f"{name}: there is no such folder; known names: {list(BUNDLED)}{hint}")
    try:
        folder = snapshot(name)
    except HubError as error:
        raise HubError(f"no folder here, and on the hub: {error}{hint}") from None
    if not (folder / INFO).is_file():
        raise ModelError(f"{name}: is on the hub but is no Tiny Audio checkpoint (no {INFO})")
    return folder


def load_weights(model: SpeechModel, folder: Path, *, trainable_adapter: bool = False) -> None:
    """Give a built model a checkpoint's weights: projector, and adapters and decoder if there.

    Raises:
        CheckpointError: another pair or projector (the field is named), a missing or unexpected
            tensor (it is named), a damaged file.
    """
    info = read_info(folder)
    for field, value in model.identity.items():
        if (theirs := info.identity.get(field)) != value:
            raise CheckpointError(
                f"{folder}: was made with {field}={theirs}, this model has {value}; use the "
                "settings it was made with, or another checkpoint"
            )
    if "decoder" in info.parts:
        lm, state = model.causal_lm, read_tensors(folder / DECODER)
        names = lm.state_dict().keys() - (_tied_names(lm) - state.keys())
        expected = {key: value for key, value in lm.state_dict().items() if key in names}
        check_tensors(expected, state, folder / DECODER, CheckpointError)
        lm.load_state_dict(state, strict=False)
        model.decoder_changed = True
    state = read_tensors(folder / WEIGHTS)
    check_tensors(_projector_state(model), state, folder / WEIGHTS, CheckpointError)
    model.projector.load_state_dict({k.removeprefix("projector."): v for k, v in state.items()})
    if "lora" in info.parts:
        model.decoder = load_adapter(model.decoder, folder / ADAPTER, trainable=trainable_adapter)


def _projector_state(model: SpeechModel) -> dict[str, Tensor]:
    return {f"projector.{key}": value for key, value in model.projector.state_dict().items()}


def _tied_names(lm: nn.Module) -> set[str]:
    """Names under which the decoder shows a tensor that it already has under another name."""
    seen: dict[int, str] = {}
    twice = set()
    for key, value in lm.state_dict(keep_vars=True).items():
        if id(value) in seen:
            twice.add(key)
        seen.setdefault(id(value), key)
    return twice


def save_checkpoint(
    model: SpeechModel,
    folder: Path,
    *,
    config: schema.Config,
    metadata: Mapping[str, Any],
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Write a model's projector, adapters and, where changed, decoder to ``folder``.

    It appears whole or not at all, in place of one that is there. ``metadata``: JSON values to
    keep, for example step and metrics. ``extra`` is called with the temporary folder to write
    further files, for example the optimizer's state.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _write(model, part, config, metadata)
        if extra is not None:
            extra(part)
        _replace(part, folder)
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
    state = {key: _on_cpu(value) for key, value in _projector_state(model).items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    if isinstance(model.decoder, PeftModel):
        parts.append("lora")
        save_adapter(model.decoder, folder / ADAPTER, base=config.model.decoder.id)
    if model.decoder_changed:
        parts.append("decoder")
        save_file(_own_decoder_state(model), folder / DECODER, metadata={"format": "pt"})
    model.tokenizer.save_pretrained(folder)
    mel = model.features
    extractor = WhisperFeatureExtractor(mel.n_mels, n_fft=mel.n_fft, hop_length=mel.hop)
    extractor.save_pretrained(folder)
    OmegaConf.save(OmegaConf.structured(config), folder / CONFIG)
    info = {
        "format": FORMAT,
        "parts": parts,
        "identity": model.identity,
        "revisions": {
            "encoder": config.model.encoder.revision,
            "decoder": config.model.decoder.revision,
        },
        "saved_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "metadata": dict(metadata),
    }
    (folder / INFO).write_text(json.dumps(info, indent=2) + "\n")


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _own_decoder_state(model: SpeechModel) -> dict[str, Tensor]:
    """The decoder's weights without adapters and without the second name of tied tensors."""
    tied = _tied_names(model.causal_lm)
    state = {}
    for key, value in model.causal_lm.state_dict().items():
        if ".lora_" in key or key in tied:
            continue
        state[key.replace(".base_layer.", ".")] = _on_cpu(value)
    return state


def _replace(part: Path, folder: Path) -> None:
    """Give the folder its name, once every file in it is on the disk."""
    for path in [p for p in part.rglob("*") if p.is_file()]:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


# ----------------------------------------------------------------------------- merging adapters


@dataclass(frozen=True)
class Merged:
    """What a merge did."""

    folder: Path
    adapters: int  # folded in
    largest_difference: float  # of a logit, before against after


def merge_command(folder: str, out: str, device: str = "auto") -> Merged:
    """Merge the adapters of checkpoint ``folder``, write the result to ``out`` and say so."""
    merged = merge_checkpoint(find_checkpoint(folder), Path(out), device=device)
    Console().print(
        f"Merged {merged.adapters} adapters into the decoder: {merged.folder}\n"
        f"Largest difference of a logit on {_PROBE_TOKENS} random tokens: "
        f"{merged.largest_difference:.1e} (fp32). The decoder is now stored whole.",
        highlight=False,
    )
    return merged


def merge_checkpoint(folder: Path, out: Path, *, device: str) -> Merged:
    """Write a checkpoint whose decoder has the adapters of ``folder`` folded in.

    The arithmetic and the stored decoder are fp32, whatever the compute dtype: bf16 would round
    away most of a small update.

    Raises:
        CheckpointError: no adapters to merge, or ``out`` exists.
        ModelError: the logits changed.
    """
    info = read_info(folder)
    if "lora" not in info.parts:
        raise CheckpointError(f"{folder}: has no adapters to merge (it holds {info.parts})")
    if out.exists():
        raise CheckpointError(f"{out}: exists; choose a new folder for the merged checkpoint")
    model = load_checkpoint(folder, device=device, dtype="float32")
    wrapped: Any = model.decoder
    adapters, before = len(lora_report(wrapped)), _probe_logits(model)
    model.decoder = wrapped.merge_and_unload().requires_grad_(False)
    model.decoder_changed = True
    difference = float((_probe_logits(model) - before).abs().max())
    if not difference < _TOLERANCE:
        raise ModelError(
            f"{folder}: merging changed a logit by {difference:.2g}; nothing was written"
        )
    metadata = {**info.metadata, "merged_from": folder.name}
    save_checkpoint(model, out, config=read_config(folder), metadata=metadata)
    return Merged(out, adapters, difference)


@torch.no_grad()
def _probe_logits(model: SpeechModel) -> Tensor:
    """Logits [1, T, V] of the decoder on fixed random tokens."""
    lm = model.causal_lm
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(embedding_table(lm)), (1, _PROBE_TOKENS), generator=generator)
    return cast(Tensor, lm(input_ids=ids.to(model.device), use_cache=False).logits)
