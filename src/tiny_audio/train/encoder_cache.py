"""``data.cache_encoder``: the frozen encoder's frames on disk, so that it hears each clip once.

    DIR/3f2a…/about.json       what the frames are of: encoder, weights, features, number format
    DIR/3f2a…/7c/7c41….frames  of one clip: 4 bytes of checksum, then the frames [E, D] in bf16

Another encoder or setting has another folder, so what is stale is never found. Files are renamed
when they are whole, so several runs and processes share a folder without locks.

SpecAugment comes before the encoder, so what is cached is masked already, or not: of the
``data.cache_variants`` variants of a clip the first is the clip as it is, each other has masks
that depend on the clip and the variant alone. Pass after pass takes the next variant.

Frames go through bf16 whether they were read or just computed, so that a run learns the same from
a cold and from a warm cache. M mel bands, L mel frames, E encoder frames, D encoder width.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import shutil
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tiny_audio.audio.features import SpecAugment
from tiny_audio.config import Config
from tiny_audio.data.records import Source
from tiny_audio.errors import ConfigError, DataError
from tiny_audio.model.batch import Batch
from tiny_audio.model.speech import SpeechModel

FORMAT = 2


class FrameStore:
    """Frames [E, D] of one encoder, by key. ``root``: a folder that several encoders may share;
    ``about``: JSON values that frames depend on, beside the clip; ``width``: D. Raises DataError
    where the folder cannot be made or read."""

    def __init__(self, root: Path, about: dict[str, Any], width: int) -> None:
        described = json.dumps({"format": FORMAT, "width": width, **about}, sort_keys=True)
        name = hashlib.blake2b(described.encode(), digest_size=8).hexdigest()
        self.folder, self.width = root / name, width
        self.damaged = 0  # clips that were found and could not be used
        self.refused = ""  # why writing has ended, if it has
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "about.json").write_text(described + "\n")
            sizes = [path.stat().st_size for path in self.folder.glob("*/*.frames")]
        except OSError as error:
            raise DataError(
                f"data.cache_encoder={root}: cannot be used ({error.strerror or error}); choose a "
                "folder that can be written"
            ) from error
        self.clips, self.size = len(sizes), sum(sizes)  # size: bytes on disk

    def read(self, key: bytes) -> Tensor | None:
        """Frames [E, D] bf16 on the CPU; None where there are none that are whole."""
        try:
            content = np.fromfile(self._path(key), np.uint8)
        except OSError:
            return None
        if _checksum(content[4:]) != content[:4].tobytes():
            self.damaged += 1
            return None
        return torch.from_numpy(content[4:]).view(torch.bfloat16).view(-1, self.width)

    def write(self, key: bytes, frames: Tensor) -> None:
        """Keep frames [E, D] bf16 on the CPU; where the disk refuses, note the reason and stop."""
        if self.refused:
            return
        path, content = self._path(key), frames.contiguous().view(torch.uint8).numpy()
        part = path.with_suffix(f".{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(exist_ok=True)
            with part.open("wb") as file:
                file.write(_checksum(content))
                file.write(content.data)
            part.replace(path)
            self.clips, self.size = self.clips + 1, self.size + 4 + content.nbytes
        except OSError as error:
            self.refused = error.strerror or str(error)
            with suppress(OSError):
                part.unlink()

    def _path(self, key: bytes) -> Path:
        return self.folder / key.hex()[:2] / f"{key.hex()}.frames"


def _checksum(content: npt.NDArray[np.uint8]) -> bytes:
    return zlib.crc32(content.data).to_bytes(4, "little")


@dataclass(eq=False)
class CachedEncoder:
    """Gives batches their encoder frames."""

    model: SpeechModel  # whose encoder computes what the store does not have
    store: FrameStore
    variants: int  # of each clip, 1 or more
    autocast: Callable[[], AbstractContextManager[Any]]  # in which the encoder runs in training
    say: Callable[[str], None]  # told once if the disk refuses
    read: int = 0  # clips
    computed: int = 0  # clips

    def __call__(self, batch: Batch) -> Batch:
        """A batch of the CPU with frames, on the model's device; missing ones are computed."""
        # `epoch` is that at the batch's end: a batch that ends a pass belongs to it.
        variant = max(0, math.ceil(batch.epoch) - 1) % self.variants
        masks = self.model.spec_augment if variant > 0 else None
        clips = zip(batch.waveform, batch.waveform_lengths.tolist(), strict=True)
        keys = [clip_key(clip[:length].numpy(), variant, masks) for clip, length in clips]
        found = {row: self.store.read(key) for row, key in enumerate(keys)}
        missing = [row for row, frames in found.items() if frames is None]
        self.read += len(found) - len(missing)
        self.computed += len(missing)
        if missing:
            refused = self.store.refused
            computed = self._compute(batch, missing, masks, [keys[row] for row in missing])
            for row, frames in zip(missing, computed, strict=True):
                self.store.write(keys[row], frames)
                found[row] = frames
            if self.store.refused != refused:
                self.say(
                    f"Encoder cache: {self.store.folder} takes no more ({self.store.refused}). The "
                    "run goes on; what is not in it is computed on every pass"
                )
        whole = [frames for frames in found.values() if frames is not None]
        dtype = next(self.model.encoder.parameters()).dtype
        return replace(
            batch,
            frames=pad_sequence(whole, batch_first=True).to(dtype),
            frame_lengths=torch.tensor([len(one) for one in whole]),
        ).to(self.model.device)

    def _compute(
        self, batch: Batch, rows: list[int], masks: SpecAugment | None, keys: list[bytes]
    ) -> list[Tensor]:
        """Frames [E, D] bf16 on the CPU of some clips of a batch, by whose keys masks are drawn."""

        def masked(mel: Tensor, lengths: Tensor) -> Tensor:
            """SpecAugment of [B, M, L], the same on any device."""
            if masks is None:
                return mel
            seeds = [int.from_bytes(key[:8], "big") >> 1 for key in keys]
            pieces = zip(mel.split(1), lengths.split(1), seeds, strict=True)
            return torch.cat([masks(m, n, torch.Generator().manual_seed(s)) for m, n, s in pieces])

        lengths, device = batch.waveform_lengths[rows], self.model.device
        waveform = batch.waveform[rows, : int(lengths.max())]
        with self.autocast():
            frames, counts = self.model.encode(waveform.to(device), lengths.to(device), mask=masked)
        frames = frames.bfloat16().cpu()
        return [one[:n].clone() for one, n in zip(frames, counts.tolist(), strict=True)]

    def summary(self) -> str:
        """How often the encoder was spared."""
        damaged = f"; {self.store.damaged:,} damaged entries" if self.store.damaged else ""
        return (
            f"Encoder cache: {self.read:,} clips read, {self.computed:,} computed{damaged}; "
            f"{self.store.size / 1e9:.2f} GB in {self.store.folder}"
        )


def clip_key(
    waveform: npt.NDArray[np.float32], variant: int = 0, masks: SpecAugment | None = None
) -> bytes:
    """16 bytes that stand for the samples of a clip [S] and how it is masked."""
    audio = hashlib.blake2b(np.ascontiguousarray(waveform).data, digest_size=16).digest()
    if masks is None:
        return audio
    sizes = masks.freq_masks, masks.freq_width, masks.time_masks, masks.time_width
    settings = repr((variant, *sizes, masks.max_time_fraction))
    return hashlib.blake2b(settings.encode(), key=audio, digest_size=16).digest()


def open_cache(
    cfg: Config,
    model: SpeechModel,
    accelerator: Accelerator,
    sources: Sequence[Source],
    say: Callable[[str], None],
) -> CachedEncoder | None:
    """Open ``data.cache_encoder`` and say how large it gets; None where no folder is named. Raises
    ConfigError where a source is endless, DataError where the folder cannot be used."""
    folder, variants = cfg.data.cache_encoder, cfg.data.cache_variants
    if folder is None:
        return None
    for source in sources:
        if source.endless:
            raise ConfigError(
                f"data.cache_encoder: the source {source.name!r} is endless, none of it is heard "
                f"twice; set data.train.{source.name}.max_samples, or leave the cache out"
            )
    encoder = model.encoder
    about = frame_properties(model, accelerator.mixed_precision)
    store = FrameStore(Path(folder).expanduser(), about, encoder.width)
    frames = encoder.out_len(model.features.out_len(10 * 16_000))
    rate = 360.0 * frames * encoder.width * 2 * variants  # bf16
    free = shutil.disk_usage(store.folder).free
    masks = "fixed masks in each of the others" if variants > 1 else "training.spec_augment is off"
    say(
        f"Encoder cache: {store.clips:,} clips ({store.size / 1e9:.2f} GB) in {store.folder}\n"
        f"  {rate / 1e9:.2f} GB for each hour of speech; {free / 1e9:.0f} GB are free\n"
        f"  SpecAugment comes before the encoder: none in the first variant, {masks}"
    )
    return CachedEncoder(model, store, variants, accelerator.autocast, say)


def frame_properties(model: SpeechModel, mixed_precision: str) -> dict[str, Any]:
    """All that frames depend on beside the clip, as JSON values."""
    features, weights = model.features, hashlib.blake2b(digest_size=16)
    for name, tensor in model.encoder.state_dict().items():
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        weights.update(plain.view(torch.uint8).numpy().data)
    return {
        "encoder": model.identity["encoder.id"],
        "weights": weights.hexdigest(),
        "padding": model.encoder.padding,
        "window_seconds": model.window_seconds if model.encoder.padding == "native" else None,
        "features": [features.n_mels, features.n_fft, features.hop],
        "dtype": str(next(model.encoder.parameters()).dtype),
        "autocast": mixed_precision,
    }
