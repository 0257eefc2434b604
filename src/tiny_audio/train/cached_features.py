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
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tiny_audio.audio.features import SpecAugment
from tiny_audio.config import Config, EncoderConfig
from tiny_audio.data.records import IndexedSource, Record, Source
from tiny_audio.errors import ConfigError
from tiny_audio.model.batch import Batch
from tiny_audio.model.encoder_cache import FrameStore, audio_key
from tiny_audio.model.speech import SpeechModel

_LOOKED_AT = 512  # records of a source whose durations stand for all


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
        """The batch with frames, on the model's device; what is missing is computed and stored.

        Args:
            batch: on the CPU, unless it has frames.
        """
        device = self.model.device
        if batch.frames is not None:
            return batch.to(device)
        variant = variant_of(batch.epoch, self.variants)
        pairs = zip(batch.waveform, batch.waveform_lengths.tolist(), strict=True)
        clips = [audio_key(clip[:length].numpy()) for clip, length in pairs]
        keys = [_variant_key(key, variant, self.model.spec_augment) for key in clips]
        found = self.store.read(keys)
        missing = [row for row, frames in enumerate(found) if frames is None]
        self.read += len(found) - len(missing)
        self.computed += len(missing)
        if missing:
            new_keys = [keys[row] for row in missing]
            computed = self._compute(batch, missing, new_keys, masked=variant > 0)
            self._write(new_keys, computed)
            for row, frames in zip(missing, computed, strict=True):
                found[row] = frames
        whole = [frames for frames in found if frames is not None]
        dtype = next(self.model.encoder.parameters()).dtype
        return replace(
            batch,
            frames=pad_sequence(whole, batch_first=True).to(dtype),
            frame_lengths=torch.tensor([len(one) for one in whole]),
        ).to(device)

    def summary(self) -> str:
        """How often the encoder was spared."""
        damaged = f"; {self.store.damaged:,} damaged entries" if self.store.damaged else ""
        return (
            f"Encoder cache: {self.read:,} clips read, {self.computed:,} computed{damaged}; "
            f"{self.store.size / 1e9:.2f} GB in {self.store.folder}"
        )

    def _compute(
        self, batch: Batch, rows: list[int], keys: list[bytes], *, masked: bool
    ) -> list[Tensor]:
        """Frames [E, D] bf16 on the CPU of some clips of a batch."""
        model = self.model
        lengths = batch.waveform_lengths[rows]
        waveform = batch.waveform[rows, : int(lengths.max())]
        augment = model.spec_augment if masked else None
        with self.autocast():
            frames, counts = model.encode(
                waveform.to(model.device),
                lengths.to(model.device),
                mask=lambda mel, lengths: _masked(mel, lengths, augment, keys),
            )
        frames = frames.bfloat16().cpu()
        return [one[:n].clone() for one, n in zip(frames, counts.tolist(), strict=True)]

    def _write(self, keys: list[bytes], frames: list[Tensor]) -> None:
        before = self.store.refused
        self.store.write(keys, frames)
        if self.store.refused and not before:
            self.say(
                f"Encoder cache: {self.store.folder} takes no more ({self.store.refused}). The run "
                "goes on; what is not in it is computed on every pass"
            )


def variant_of(epoch: float, variants: int) -> int:
    """The variant that a batch takes whose end is ``epoch`` passes into the data."""
    return max(0, math.ceil(epoch) - 1) % variants


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
    settings = (
        variant,
        *(augment.freq_masks, augment.freq_width),
        *(augment.time_masks, augment.time_width, augment.max_time_fraction),
    )
    return hashlib.blake2b(repr(settings).encode(), key=audio, digest_size=16).digest()


# -------------------------------------------------------------------- opening the cache of a run


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
    properties = frame_properties(model, cfg.model.encoder, accelerator.mixed_precision)
    store = FrameStore(Path(folder).expanduser(), properties, model.encoder.width)
    rate, hours = bytes_per_hour(model) * variants, hours_of(sources)
    free = shutil.disk_usage(store.folder).free
    say(f"Encoder cache: {len(store):,} clips ({store.size / 1e9:.2f} GB) in {store.folder}")
    if hours is None:
        size = f"to come: {rate / 1e9:.2f} GB for each hour of speech (its hours are not known)"
    else:
        size = f"all of {hours:,.1f} h take about {hours * rate / 1e9:.2f} GB"
    say(f"  {size}; {free / 1e9:.0f} GB are free")
    if hours is not None and hours * rate - store.size > free:
        say("  that does not fit: what is left over is computed on every pass")
    masks = "fixed masks in each of the others" if variants > 1 else "training.spec_augment is off"
    say(f"  SpecAugment comes before the encoder: none in the first variant, {masks}")
    return CachedFeatures(model, store, variants, accelerator.autocast, say)


def frame_properties(
    model: SpeechModel, encoder: EncoderConfig, mixed_precision: str
) -> dict[str, Any]:
    """All that frames depend on beside the clip, as JSON values."""
    features = model.features
    return {
        "encoder": encoder.id,
        "revision": encoder.revision,
        "weights": weights_hash(model.encoder),
        "padding": model.encoder.padding,
        "window_seconds": model.window_seconds if model.encoder.padding == "native" else None,
        "features": [features.n_mels, features.n_fft, features.hop],
        "dtype": str(next(model.encoder.parameters()).dtype),
        "autocast": mixed_precision,
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
    frames = model.encoder.out_len(model.features.out_len(10 * 16_000))
    return 360.0 * frames * model.encoder.width * 2


def hours_of(sources: Sequence[Source]) -> float | None:
    """Hours in all sources, from the durations that their first records declare."""
    total = 0.0
    for source in sources:
        if not isinstance(source, IndexedSource) or source.length is None:
            return None
        items = list(islice(source.records(), _LOOKED_AT))
        known = [i.seconds for i in items if isinstance(i, Record) and i.seconds is not None]
        if len(known) < len(items) / 2 or not known:
            return None
        total += source.length * sum(known) / len(known) / 3600
    return total
