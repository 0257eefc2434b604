"""Waveform to log-mel spectrogram and SpecAugment, batched, on the model's device.

The numbers are those of Whisper's feature extractor (Radford et al. 2022, section 2.2), which
GLM-ASR uses too, but a frame depends on its own clip alone, never on padding or on the batch.

B utterances, S samples, L mel frames, M mel bands, N masks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.errors import ConfigError

_TOP_HZ = 8_000.0  # upper edge of the highest mel band
_POWER_FLOOR = 1e-10  # of the mel power, before the logarithm
_RANGE_DECADES = 8.0  # kept below the loudest band of the clip

Length = TypeVar("Length", int, Tensor)


class LogMel(nn.Module):
    """Whisper's log-mel spectrogram, independent of padding.

    Valid frames equal ``transformers.WhisperFeatureExtractor`` with its default padding to 30 s;
    a clip longer than that is not cut. `n_mels` is M, `n_fft` and `hop` are in samples.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, n_mels: int, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_mels, self.n_fft, self.hop = n_mels, n_fft, hop
        filters = mel_filter_bank(
            num_frequency_bins=1 + n_fft // 2,
            num_mel_filters=n_mels,
            min_frequency=0.0,
            max_frequency=_TOP_HZ,
            sampling_rate=SAMPLE_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        window = torch.hann_window(n_fft, periodic=True, dtype=torch.float32, device="cpu")
        self.register_buffer("window", window, persistent=False)  # [n_fft]
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LogMel:
        """Follow the model to another device but not to bfloat16, which would round the bands."""
        window, filters = self.window, self.filters
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.window, self.filters = (own.to(self.window.device) for own in (window, filters))
        return self

    def out_len(self, samples: Length) -> Length:
        """Mel frames of a clip of so many samples."""
        return samples // self.hop

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel of waveforms [B, S] with `lengths` [B]; what lies beyond a length is ignored.

        Returns mel [B, M, S // hop] float32, 0 beyond each clip's own frames, and those [B].
        """
        samples = waveform.shape[1]
        # Zeros on the right stand for the rest of the 30 s window: the transform reflects the
        # signal at its end, and only zeros may be reflected. The few frames past the last valid
        # one that still touch the clip are computed because they count for its maximum.
        mel = self._log_mel(_zero_padded(waveform, lengths, samples + self.n_fft + self.hop))
        mel = mel[:, :, : self.out_len(samples)]
        mel_lengths = self.out_len(lengths)
        valid = torch.arange(mel.shape[2], device=mel.device) < mel_lengths[:, None]  # [B, L]
        return torch.where(valid[:, None, :], mel, 0.0).contiguous(), mel_lengths

    def native(self, waveform: Tensor, lengths: Tensor, window_samples: int) -> Tensor:
        """Features as the stock extractor has them: [B, M, window_samples // hop], float32.

        Each clip of [B, S] is cut or zero padded to the window; the padding counts as signal.
        """
        return self._log_mel(_zero_padded(waveform, lengths, window_samples)).contiguous()

    def _log_mel(self, signal: Tensor) -> Tensor:
        """Map a signal [B, S] to [B, M, S // hop], in float32 even under autocast."""
        with torch.autocast(signal.device.type, enabled=False):
            spectrum = torch.stft(
                signal, self.n_fft, self.hop, window=self.window, center=True, return_complex=True
            )[:, :, :-1]  # [B, n_fft // 2 + 1, L], complex; Whisper drops the last frame
            # Without the root and its square that abs() would take and undo.
            parts = torch.view_as_real(spectrum.transpose(1, 2))  # [B, L, n_fft // 2 + 1, 2]
            power = parts[..., 0].square().addcmul_(parts[..., 1], parts[..., 1])
            del spectrum, parts  # twice the size of the power; free it before the next allocation
            log_mel = self._mel_bands(power).clamp(min=_POWER_FLOOR).log10()  # [B, L, M]
            loudest = log_mel.amax(dim=(1, 2), keepdim=True)
            scaled = (torch.maximum(log_mel, loudest - _RANGE_DECADES) + 4.0) / 4.0
        return scaled.transpose(1, 2)

    def _mel_bands(self, power: Tensor) -> Tensor:
        """Sum the power [B, L, n_fft // 2 + 1] into mel bands [B, L, M]."""
        if power.device.type == "mps":  # has no double precision, and nothing to guard against
            return power @ self.filters
        # torch.set_float32_matmul_precision, which training lowers for speed, lets CUDA round to
        # TF32 and some CPUs to bfloat16: errors up to 8e-4 here. It leaves doubles alone.
        return (power.double() @ self.filters.double()).float()


class SpecAugment(nn.Module):
    """Time and frequency masks on the log-mel (Park et al. 2019, arXiv:1904.08779, section 2).

    Widths and positions are uniform; there is no time warping. Masked cells become 0, about the
    mean of Whisper's scaled log-mel. Masks never cover all frames or bands of an utterance; in
    evaluation mode nothing is changed.

    Args:
        freq_masks, time_masks: masks over mel bands and over frames, for each utterance.
        freq_width, time_width: bands and frames at most in one.
        max_time_fraction: of the utterance's own frames at most in one time mask.
    """

    def __init__(
        self,
        freq_masks: int,
        freq_width: int,
        time_masks: int,
        time_width: int,
        max_time_fraction: float,
    ) -> None:
        super().__init__()
        if min(freq_masks, freq_width, time_masks, time_width) < 0:
            raise ConfigError("spec_augment: the number and width of masks cannot be negative")
        if not 0.0 <= max_time_fraction <= 1.0:
            raise ConfigError(f"spec_augment.max_time_fraction={max_time_fraction}: use 0 to 1")
        self.freq_masks, self.freq_width = freq_masks, freq_width
        self.time_masks, self.time_width = time_masks, time_width
        self.max_time_fraction = max_time_fraction

    def forward(
        self, mel: Tensor, lengths: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return mel [B, M, L] with masks within each utterance's `lengths` [B] frames.

        They are drawn from `generator`, on any device, or the default one of the mel's device.
        """
        if not self.training:
            return mel
        bands = torch.full_like(lengths, mel.shape[1])
        width = bands.clamp(max=self.freq_width)
        freq = self._masks(self.freq_masks, width, bands, mel.shape[1], generator)
        width = (lengths * self.max_time_fraction).long().clamp(max=self.time_width)
        time = self._masks(self.time_masks, width, lengths, mel.shape[2], generator)
        return mel.masked_fill(freq[:, :, None] | time[:, None], 0.0)

    @staticmethod
    def _masks(
        number: int, width: Tensor, extent: Tensor, size: int, generator: torch.Generator | None
    ) -> Tensor:
        """Masks of at most `width` [B] cells within the first `extent` [B]: union, [B, size]."""
        device = width.device if generator is None else generator.device
        uniform = torch.rand(2, len(width), number, generator=generator, device=device)
        uniform = uniform.to(width.device)  # [2, B, N]
        extent = extent[:, None]
        most = torch.minimum(width[:, None], (extent - 1).clamp(min=0) // max(number, 1))
        drawn = (uniform[0] * (most + 1)).long().clamp(max=most)
        start = (uniform[1] * (extent - drawn + 1)).long()
        start = torch.minimum(start, extent - drawn)  # float32 may round up to the next integer
        position = torch.arange(size, device=width.device)  # [size]
        mask = (position >= start[..., None]) & (position < (start + drawn)[..., None])
        return mask.any(dim=1)


def _zero_padded(waveform: Tensor, lengths: Tensor, samples: int) -> Tensor:
    """Cut or extend [B, S] to so many samples, with zeros from each clip's length on."""
    waveform = waveform.float()[:, :samples]
    mask = torch.arange(waveform.shape[1], device=waveform.device) < lengths[:, None]
    waveform = torch.where(mask, waveform, 0.0)
    return nn.functional.pad(waveform, (0, samples - waveform.shape[1]))
