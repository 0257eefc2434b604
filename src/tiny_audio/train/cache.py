"""``data.cache_encoder``: opens the encoder cache of a run, and says first how large it gets."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from accelerate import Accelerator

from tiny_audio.config import Config
from tiny_audio.data.records import IndexedSource, Record, Source
from tiny_audio.errors import ConfigError
from tiny_audio.model.encoder_cache import FrameStore
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.frames import CachedEncoder, about_frames, bytes_per_hour

_LOOKED_AT = 512  # records of a source whose durations stand for all


def open_cache(
    cfg: Config,
    model: SpeechModel,
    accelerator: Accelerator,
    sources: Sequence[Source],
    say: Callable[[str], None],
) -> CachedEncoder | None:
    """The cache that the configuration names, None where it names none.

    Raises:
        ConfigError: a source is endless, so that nothing would ever be read again.
        DataError: the folder cannot be used.
    """
    if cfg.data.cache_encoder is None:
        return None
    endless = [source.name for source in sources if source.endless]
    if endless:
        raise ConfigError(
            f"data.cache_encoder: the source {endless[0]!r} is endless, none of it is heard twice; "
            f"set data.train.{endless[0]}.max_samples, or leave the cache out"
        )
    root = Path(cfg.data.cache_encoder).expanduser()
    about = about_frames(model, cfg.model, accelerator.mixed_precision)
    store = FrameStore(root, about, model.encoder.width)
    for line in beginning(
        store, hours=hours_of(sources), rate=bytes_per_hour(model), variants=cfg.data.cache_variants
    ):
        say(line)
    return CachedEncoder(
        model, store, variants=cfg.data.cache_variants, autocast=accelerator.autocast, say=say
    )


def beginning(store: FrameStore, *, hours: float | None, rate: float, variants: int) -> list[str]:
    """What is there, what is to come and whether it fits.

    Args:
        store: open.
        hours: of the training data; None: not known.
        rate: bytes an hour.
        variants: of each clip.
    """
    there, free = store.size, shutil.disk_usage(store.folder).free
    lines = [f"Encoder cache: {len(store):,} clips ({there / 1e9:.2f} GB) in {store.folder}"]
    if hours is None:
        lines.append(
            f"  to come: {rate * variants / 1e9:.2f} GB for each hour of speech (its hours are not "
            f"known); {free / 1e9:.0f} GB are free"
        )
    else:
        whole = hours * rate * variants
        lines.append(
            f"  all of {hours:,.1f} h take about {whole / 1e9:.2f} GB; {free / 1e9:.0f} GB are free"
        )
        if whole - there > free:
            lines.append("  that does not fit: what is left over is computed on every pass")
    masks = "fixed masks in each of the others" if variants > 1 else "training.spec_augment is off"
    lines.append(f"  SpecAugment comes before the encoder: none in the first variant, {masks}")
    return lines


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
