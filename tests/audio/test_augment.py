"""SpecAugment: what is masked, where, and how reproducibly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_audio.audio.features import SpecAugment
from tiny_audio.errors import ConfigError

LENGTHS = torch.tensor([300, 120, 7, 1, 0])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masked(augment: SpecAugment, mel: torch.Tensor, lengths: torch.Tensor, seed: int = 0):
    """Which cells [B, M, L] become zero."""
    return augment(mel, lengths, seeded(seed)) == 0.0


@settings(max_examples=30, deadline=None)
@given(
    freq=st.tuples(st.integers(0, 4), st.integers(0, 100)),
    time=st.tuples(st.integers(0, 6), st.integers(0, 400)),
    fraction=st.floats(0.0, 1.0),
    seed=st.integers(0, 99),
)
def test_masks_are_bands_within_bounds_and_never_everything(freq, time, fraction, seed):
    mel = torch.rand(len(LENGTHS), 40, 310) + 1.0
    out = SpecAugment(*freq, *time, fraction)(mel, LENGTHS, seeded(seed))
    zero = out == 0.0
    assert torch.equal(out[~zero], mel[~zero])
    for row, n in zip(zero, LENGTHS.tolist(), strict=True):
        frames, bands = row.all(dim=0), row.all(dim=1)  # fully masked ones
        assert torch.equal(row, frames[None, :] | bands[:, None])
        assert not frames[n:].any()
        assert int(bands.sum()) <= min(39, freq[0] * freq[1])
        assert int(frames.sum()) <= time[0] * min(time[1], int(n * fraction + 1e-3))
        assert n == 0 or not frames[:n].all()


def test_equal_seeds_equal_masks_and_others_differ() -> None:
    augment = SpecAugment(2, 27, 2, 50, 0.2)
    mel = torch.ones(4, 128, 500)
    lengths = torch.full((4,), 500)
    first = masked(augment, mel, lengths)
    assert torch.equal(first, masked(augment, mel, lengths))
    assert not torch.equal(first, masked(augment, mel, lengths, seed=1))
    assert not torch.equal(first[0], first[1])  # each utterance has its own
    assert (mel == 1.0).all()
    torch.manual_seed(5)  # without a generator the global one decides
    first = augment(mel, lengths)
    torch.manual_seed(5)
    assert torch.equal(first, augment(mel, lengths))


def test_widths_and_places_are_uniform() -> None:
    """One mask of 0 to 10 of 20 bands: mean width 5, and the middle is masked most often."""
    augment = SpecAugment(1, 10, 0, 0, 0.0)
    rows = masked(augment, torch.ones(5_000, 20, 1), torch.ones(5_000, dtype=torch.long))[..., 0]
    widths = rows.sum(dim=1)
    counts = torch.bincount(widths, minlength=11) / len(rows)
    torch.testing.assert_close(counts, torch.full((11,), 1 / 11), atol=0.02, rtol=0)
    often = rows.float().mean(dim=0)
    torch.testing.assert_close(often, often.flip(0), atol=0.04, rtol=0)
    assert often[10] > often[0] > 0.0


def test_outside_training_nothing_is_masked() -> None:
    mel = torch.rand(len(LENGTHS), 128, 300)
    assert torch.equal(SpecAugment(2, 27, 2, 50, 0.2).eval()(mel, LENGTHS, seeded(0)), mel)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_time_fraction"):
        SpecAugment(1, 1, 1, 1, 1.5)
    with pytest.raises(ConfigError, match="negative"):
        SpecAugment(-1, 1, 1, 1, 0.5)
