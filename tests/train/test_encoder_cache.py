"""The encoder cache: the same training, with the encoder run once."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.train.helpers import batch_of, rows, run, settings, tiny, utterances
from tiny_audio.audio.features import SpecAugment
from tiny_audio.errors import ConfigError
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.build import train
from tiny_audio.train.encoder_cache import CachedEncoder, FrameStore, frame_properties

EPOCH = 8  # utterances
SHORT = ("training.max_steps=6", "training.eval_steps=0", "training.warmup_steps=0")
UNMASKED = ("training.spec_augment.freq_masks=0", "training.spec_augment.time_masks=0")


def cached(model: SpeechModel, root: Path, variants: int = 1) -> CachedEncoder:
    store = FrameStore(root, frame_properties(model, "no"), model.encoder.width)
    said: list[str] = []
    made = CachedEncoder(model, store, variants=variants, autocast=torch.no_grad, say=said.append)
    made.said = said  # type: ignore[attr-defined]
    return made


@pytest.mark.slow
def test_a_run_with_the_cache_learns_what_one_without_learns(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to the rounding of the frames to bf16, whether they are computed or read."""
    cache = f"data.cache_encoder={tmp_path / 'cache'}"
    run(data, tmp_path / "without", *SHORT, *UNMASKED)
    capsys.readouterr()
    run(data, tmp_path / "cold", *SHORT, *UNMASKED, cache)
    said = capsys.readouterr().out
    assert "SpecAugment comes before the encoder: none in the first variant" in said
    assert "GB for each hour of speech" in said
    assert f"{EPOCH} computed;" in said
    run(data, tmp_path / "warm", *SHORT, *UNMASKED, cache)
    said = capsys.readouterr().out
    assert f"Encoder cache: {EPOCH} clips" in said
    assert " 0 computed;" in said
    without, cold, warm = (
        [row["loss"] for row in rows(tmp_path / name)] for name in ("without", "cold", "warm")
    )
    assert cold == pytest.approx(without, rel=2e-3)
    assert warm == pytest.approx(cold, rel=1e-6)


def test_a_bf16_encoder_loses_nothing_to_the_cache(tmp_path: Path) -> None:
    model = tiny()
    model.encoder.bfloat16()
    batch = batch_of(model, utterances()[:4])
    plain, _ = model.encode(batch.waveform, batch.waveform_lengths)
    assert torch.equal(cached(model, tmp_path)(batch).frames, plain)


def test_every_variant_is_computed_once_and_has_its_own_masks(tmp_path: Path) -> None:
    model = tiny()
    model.spec_augment = SpecAugment(2, 27, 2, 50, 0.2)
    model.train()
    encoder = cached(model, tmp_path, variants=3)
    batch = batch_of(model, utterances()[:4])
    # A batch that ends a pass belongs to it.
    passes = [encoder(replace(batch, epoch=epoch)).frames for epoch in (0.5, 2.0, 2.5, 4.0, 4.1)]
    plain, _ = model.eval().encode(batch.waveform, batch.waveform_lengths)
    assert encoder.computed == 3 * 4
    torch.testing.assert_close(passes[0], plain.bfloat16().float())
    assert not torch.equal(passes[1], passes[0])
    assert not torch.equal(passes[2], passes[1])
    assert torch.equal(passes[3], passes[0])
    assert torch.equal(passes[4], passes[1])
    # Masks belong to the clip: another batch, another process, the same frames.
    model.train()
    one = replace(batch_of(model, utterances()[1:2]), epoch=1.5)
    alone = cached(model, tmp_path / "other", variants=3)(one)
    torch.testing.assert_close(
        alone.frames[0], passes[1][1, : alone.frames.shape[1]], atol=0.05, rtol=0.05
    )


def test_another_encoder_or_setting_finds_nothing(tmp_path: Path) -> None:
    model = tiny()
    batch = batch_of(model, utterances()[:2])
    cached(model, tmp_path)(batch)
    assert cached(model, tmp_path).store.clips == 2
    with torch.no_grad():
        next(model.encoder.parameters()).flatten()[-1] += 1e-3
    assert cached(model, tmp_path).store.clips == 0


def test_a_full_disk_ends_the_writing_and_not_the_run(tmp_path: Path) -> None:
    model = tiny()
    encoder = cached(model, tmp_path)
    batch = batch_of(model, utterances()[:2])
    encoder(batch_of(model, utterances()[2:4]))
    shutil.rmtree(encoder.store.folder)
    encoder.store.folder.write_text("")  # nothing can be written below it, not even by root
    frames = encoder(batch).frames
    encoder(batch)
    assert frames is not None
    assert encoder.computed == 2 + 2 + 2
    assert [line for line in encoder.said if "takes no more" in line] == encoder.said[:1]


def test_endless_data_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    cfg = settings(tmp_path, tmp_path / "run", f"data.cache_encoder={tmp_path / 'cache'}")
    source = next(iter(cfg.data.train.values()))
    source.kind, source.path, source.split, source.max_samples = "synthetic", None, "train", None
    cfg.data.eval, cfg.training.eval_steps = {}, 0
    cfg.data.holdout = 0
    with pytest.raises(ConfigError, match="endless"):
        train(cfg)
