"""Encoder frames for training batches, from a cache where there is one.

SpecAugment comes before the encoder, so what is cached is masked already, or not: of the
``data.cache_variants`` variants of a clip the first is the clip as it is, each other has masks
that depend on the clip and the variant alone. Pass after pass takes the next variant.

Frames go through bf16 whether they were read or just computed, so that a run learns the same from
a cold and from a warm cache. B utterances, E encoder frames, D encoder width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tiny_audio.audio.features import SpecAugment
from tiny_audio.model.batch import Batch
from tiny_audio.model.encoder_cache import FrameStore, audio_key
from tiny_audio.model.plain_encoder import PlainEncoder
from tiny_audio.model.speech import SpeechModel

_SEED_BYTES = 8


class MaskedVariants:
    """SpecAugment whose masks are a function of each clip's key, on any device.

    Args:
        augment: the masks' settings.
        keys: of the clips, in order.
    """

    def __init__(self, augment: SpecAugment, keys: list[bytes]) -> None:
        self.augment, self.keys = augment, keys

    def __call__(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """Mask [B, M, L] of clips with so many frames [B]."""
        rows = []
        for row, key in enumerate(self.keys):
            seed = int.from_bytes(key[:_SEED_BYTES], "big") >> 1
            generator = torch.Generator().manual_seed(seed)
            one = slice(row, row + 1)
            rows.append(self.augment(mel[one], lengths[one], generator))
        return torch.cat(rows)


class CachedEncoder:
    """Gives batches their encoder frames.

    Args:
        model: whose encoder is asked where the store has nothing.
        store: frames on disk.
        variants: of each clip, 1 or more.
        autocast: makes the context in which the encoder runs in training.
        say: told once if the disk refuses.
    """

    def __init__(
        self,
        model: SpeechModel,
        store: FrameStore,
        *,
        variants: int,
        autocast: Callable[[], AbstractContextManager[Any]],
        say: Callable[[str], None],
    ) -> None:
        self.model, self.store, self.variants = model, store, variants
        self.autocast, self.say = autocast, say
        self.read = self.computed = 0  # clips

    def __call__(self, batch: Batch) -> Batch:
        """The batch with frames, on the model's device; what is missing is computed and kept.

        Args:
            batch: on the CPU, unless it has frames.
        """
        device = self.model.device
        if batch.frames is not None:
            return batch.to(device)
        keys = self._keys(batch)
        found = self.store.read(keys)
        missing = [row for row, frames in enumerate(found) if frames is None]
        self.read += len(found) - len(missing)
        if missing:
            made = self._compute(batch, missing, [keys[row] for row in missing])
            self._write([keys[row] for row in missing], made)
            self.computed += len(missing)
            for row, frames in zip(missing, made, strict=True):
                found[row] = frames
        return self._with_frames(batch, [f for f in found if f is not None]).to(device)

    def _write(self, keys: list[bytes], frames: list[Tensor]) -> None:
        before = self.store.refused
        self.store.write(keys, frames)
        if self.store.refused and not before:
            self.say(
                f"Encoder cache: {self.store.folder} takes no more ({self.store.refused}). The run "
                "goes on; what is not in it is computed on every pass"
            )

    def summary(self) -> str:
        """How often the encoder was spared."""
        damaged = f"; {self.store.damaged:,} damaged entries" if self.store.damaged else ""
        return (
            f"Encoder cache: {self.read:,} clips read, {self.computed:,} computed{damaged}; "
            f"{self.store.size / 1e9:.2f} GB in {self.store.folder}"
        )

    def _keys(self, batch: Batch) -> list[bytes]:
        variant = variant_of(batch.epoch, self.variants)
        pairs = zip(batch.waveform, batch.waveform_lengths.tolist(), strict=True)
        clips = [audio_key(clip[:length].numpy()) for clip, length in pairs]
        return [_variant_key(key, variant, self.model.spec_augment) for key in clips]

    def _compute(self, batch: Batch, rows: list[int], keys: list[bytes]) -> list[Tensor]:
        """Frames [E, D] bf16 on the CPU of some clips of a batch."""
        model, augment = self.model, self.model.spec_augment
        masked = variant_of(batch.epoch, self.variants) > 0 and augment is not None
        assert augment is not None or not masked
        lengths = batch.waveform_lengths[rows]
        waveform = batch.waveform[rows, : int(lengths.max())]
        with self.autocast():
            frames, counts = model.encode(
                waveform.to(model.device),
                lengths.to(model.device),
                mask=MaskedVariants(augment, keys) if masked and augment else _unmasked,
            )
        frames = frames.bfloat16().cpu()
        return [one[:n].clone() for one, n in zip(frames, counts.tolist(), strict=True)]

    def _with_frames(self, batch: Batch, frames: list[Tensor]) -> Batch:
        dtype = next(self.model.encoder.parameters()).dtype
        return replace(
            batch,
            frames=pad_sequence(frames, batch_first=True).to(dtype),
            frame_lengths=torch.tensor([len(one) for one in frames]),
        )


def variant_of(epoch: float, variants: int) -> int:
    """The variant that a batch takes whose end is ``epoch`` passes into the data."""
    return max(0, math.ceil(epoch) - 1) % variants


def about_frames(model: SpeechModel, cfg: Any, autocast: str) -> dict[str, Any]:
    """All that frames depend on beside the clip, as JSON values.

    Args:
        model: on its device.
        cfg: settings of the model.
        autocast: number format in which the encoder computes, beside that of its weights.
    """
    features = model.features
    return {
        "encoder": cfg.encoder.id,
        "revision": cfg.encoder.revision,
        "weights": weights_hash(model.encoder),
        "padding": model.encoder.padding,
        "window_seconds": model.window_seconds if model.encoder.padding == "native" else None,
        "features": [features.n_mels, features.n_fft, features.hop],
        "dtype": str(next(model.encoder.parameters()).dtype),
        "autocast": autocast,
    }


def weights_hash(module: nn.Module) -> str:
    """Hash of every parameter and buffer, names and number formats included."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def bytes_per_hour(model: SpeechModel) -> float:
    """Size of the frames of an hour of speech, one variant, read off clips of ten seconds."""
    samples, encoder = 10 * 16_000, model.encoder
    plain = isinstance(encoder, PlainEncoder)
    frames = encoder.out_len(samples if plain else model.features.out_len(samples))
    return 360.0 * float(frames) * encoder.width * 2


def _variant_key(audio: bytes, variant: int, augment: SpecAugment | None) -> bytes:
    if variant == 0 or augment is None:
        return audio
    settings = (
        variant,
        *(augment.freq_masks, augment.freq_width),
        *(augment.time_masks, augment.time_width, augment.max_time_fraction),
    )
    return hashlib.blake2b(repr(settings).encode(), key=audio, digest_size=16).digest()


def _unmasked(mel: Tensor, lengths: Tensor) -> Tensor:
    return mel
