"""``data.cache_encoder``: encoder frames for training batches, from a cache where there is one.

SpecAugment comes before the encoder, so what is cached is masked already, or not: of the
``data.cache_variants`` variants of a clip the first is the clip as it is, each other has masks
that depend on the clip and the variant alone. Pass after pass takes the next variant.

Frames go through bf16 whether they were read or just computed, so that a run learns the same from
a cold and from a warm cache. B utterances, L mel frames, E encoder frames, D encoder width.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tiny_audio.audio.features import SpecAugment
from tiny_audio.config import Config, EncoderConfig
from tiny_audio.data.records import Source
from tiny_audio.errors import ConfigError
from tiny_audio.model.batch import Batch
from tiny_audio.model.encoder_cache import FrameStore, audio_key
from tiny_audio.model.speech import SpeechModel


@dataclass(eq=False)
class CachedFeatures:
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
        device, augment = self.model.device, self.model.spec_augment
        if batch.frames is not None:
            return batch.to(device)
        # `epoch` is that at the batch's end: a batch that ends a pass belongs to it.
        variant = max(0, math.ceil(batch.epoch) - 1) % self.variants
        pairs = zip(batch.waveform, batch.waveform_lengths.tolist(), strict=True)
        clips = [audio_key(clip[:length].numpy()) for clip, length in pairs]
        keys = [_variant_key(key, variant, augment) for key in clips]
        found = self.store.read(keys)
        missing = [row for row, frames in enumerate(found) if frames is None]
        self.read += len(found) - len(missing)
        self.computed += len(missing)
        if missing:
            new_keys, refused_before = [keys[row] for row in missing], self.store.refused
            masks = augment if variant > 0 else None
            computed = self._compute(batch, missing, masks, new_keys)
            self.store.write(new_keys, computed)
            if self.store.refused and not refused_before:
                self.say(
                    f"Encoder cache: {self.store.folder} takes no more ({self.store.refused}). The "
                    "run goes on; what is not in it is computed on every pass"
                )
            for row, frames in zip(missing, computed, strict=True):
                found[row] = frames
        whole = [frames for frames in found if frames is not None]
        dtype = next(self.model.encoder.parameters()).dtype
        return replace(
            batch,
            frames=pad_sequence(whole, batch_first=True).to(dtype),
            frame_lengths=torch.tensor([len(one) for one in whole]),
        ).to(device)

    def _compute(
        self, batch: Batch, rows: list[int], masks: SpecAugment | None, keys: list[bytes]
    ) -> list[Tensor]:
        """Frames [E, D] bf16 on the CPU of some clips of a batch."""
        lengths = batch.waveform_lengths[rows]
        waveform = batch.waveform[rows, : int(lengths.max())]
        device = self.model.device
        with self.autocast():
            frames, counts = self.model.encode(
                waveform.to(device),
                lengths.to(device),
                mask=lambda mel, lengths: _masked(mel, lengths, masks, keys),
            )
        frames = frames.bfloat16().cpu()
        return [one[:n].clone() for one, n in zip(frames, counts.tolist(), strict=True)]

    def summary(self) -> str:
        """How often the encoder was spared."""
        damaged = f"; {self.store.damaged:,} damaged entries" if self.store.damaged else ""
        return (
            f"Encoder cache: {self.read:,} clips read, {self.computed:,} computed{damaged}; "
            f"{self.store.size / 1e9:.2f} GB in {self.store.folder}"
        )


def _masked(
    mel: Tensor, lengths: Tensor, augment: SpecAugment | None, keys: Sequence[bytes]
) -> Tensor:
    """SpecAugment of [B, M, L] whose masks are a function of each clip's key, on any device."""
    if augment is None:
        return mel
    rows = []
    for row, key in enumerate(keys):
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
        one = slice(row, row + 1)
        rows.append(augment(mel[one], lengths[one], generator))
    return torch.cat(rows)


def _variant_key(audio: bytes, variant: int, augment: SpecAugment | None) -> bytes:
    if variant == 0 or augment is None:
        return audio
    masks = augment.freq_masks, augment.freq_width, augment.time_masks, augment.time_width
    settings = repr((variant, *masks, augment.max_time_fraction))
    return hashlib.blake2b(settings.encode(), key=audio, digest_size=16).digest()


def open_cache(
    cfg: Config,
    model: SpeechModel,
    accelerator: Accelerator,
    sources: Sequence[Source],
    say: Callable[[str], None],
) -> CachedFeatures | None:
    """Open ``data.cache_encoder`` and say how large it gets; None where no folder is named.

    Raises:
        ConfigError: a source is endless, so that nothing would ever be read again.
        DataError: the folder cannot be used.
    """
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
    properties = frame_properties(model, cfg.model.encoder, accelerator.mixed_precision)
    store = FrameStore(Path(folder).expanduser(), properties, encoder.width)
    frames = encoder.out_len(model.features.out_len(10 * 16_000))
    rate = 360.0 * frames * encoder.width * 2 * variants  # bf16
    free = shutil.disk_usage(store.folder).free
    masks = "fixed masks in each of the others" if variants > 1 else "training.spec_augment is off"
    say(
        f"Encoder cache: {len(store):,} clips ({store.size / 1e9:.2f} GB) in {store.folder}\n"
        f"  {rate / 1e9:.2f} GB for each hour of speech; {free / 1e9:.0f} GB are free\n"
        f"  SpecAugment comes before the encoder: none in the first variant, {masks}"
    )
    return CachedFeatures(model, store, variants, accelerator.autocast, say)


def frame_properties(
    model: SpeechModel, encoder: EncoderConfig, mixed_precision: str
) -> dict[str, Any]:
    """All that frames depend on beside the clip, as JSON values."""
    features, weights = model.features, hashlib.blake2b(digest_size=16)
    for name, tensor in model.encoder.state_dict().items():
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        weights.update(plain.view(torch.uint8).numpy().data)
    return {
        "encoder": encoder.id,
        "revision": encoder.revision,
        "weights": weights.hexdigest(),
        "padding": model.encoder.padding,
        "window_seconds": model.window_seconds if model.encoder.padding == "native" else None,
        "features": [features.n_mels, features.n_fft, features.hop],
        "dtype": str(next(model.encoder.parameters()).dtype),
        "autocast": mixed_precision,
    }
