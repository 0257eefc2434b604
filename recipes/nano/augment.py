"""Augmentation on the device: noise, rooms, channels, levels, and warps of the log-mel.

B rows, S samples, M mel bands, L mel frames. All strengths grow with `strength` in [0, 1].
"""

import json
from collections.abc import Iterator
from pathlib import Path

import soundfile
import torch
from torch import Tensor
from torch.nn import functional

RATE = 16_000


def _coloured(count: int, samples: int, device: torch.device) -> Tensor:
    """Noise [count, samples] with random spectral slopes, half of it with a wandering level."""
    spectrum = torch.randn(count, samples // 2 + 1, dtype=torch.complex64, device=device)
    hz = torch.linspace(1, RATE / 2, samples // 2 + 1, device=device).clamp(min=30.0)
    slope = torch.rand(count, 1, device=device) * 1.6 - 0.3  # blue to brown
    noise = torch.fft.irfft(spectrum * torch.pow(hz, -slope), samples)
    steps = torch.randn(count, 1, samples // 4000 + 2, device=device).mul(1.2).exp()
    level = functional.interpolate(steps, size=samples, mode="linear")[:, 0]
    wander = torch.rand(count, 1, device=device) < 0.5
    shaped: Tensor = noise * torch.where(wander, level, torch.ones_like(level))
    return shaped


def _hum(count: int, samples: int, device: torch.device) -> Tensor:
    """Hums and chords: a few steady harmonics that come and go, like machines or music."""
    time = torch.arange(samples, device=device) / RATE
    total = torch.zeros(count, samples, device=device)
    for _ in range(6):
        base = 50 * 2 ** (torch.rand(count, 1, device=device) * 5)
        swell = (time * (0.1 + torch.rand(count, 1, device=device))).sin().clamp(min=0)
        for harmonic in (1, 2, 3):
            total += (2 * torch.pi * base * harmonic * time).sin() * swell / harmonic
    return total


def recordings(folder: Path, rooms: bool, device: torch.device) -> Iterator[Tensor]:
    """The room responses of a folder with a manifest, or everything else in it."""
    for row in map(json.loads, (folder / "manifest.jsonl").read_text().splitlines()):
        if (row["kind"] == "rir") == rooms:
            wave, _ = soundfile.read(folder / row["audio_filepath"], dtype="float32")
            yield torch.from_numpy(wave).to(device)


def noise_bank(folder: Path | None, clips: Tensor | None, device: torch.device) -> Tensor:
    """A bank of noises [N, 20 s] of unit RMS: real ones, coloured ones, hums, and babble.

    `folder` has real noises with a manifest; `clips` is speech int16 [S] to make babble from.
    """
    samples = 20 * RATE
    bank = [_coloured(40, samples, device), _hum(10, samples, device)]
    if folder is not None:
        for wave in recordings(folder, rooms=False, device=device):
            copies = max(2, len(wave) // samples)
            wave = wave.repeat(-(-samples * (copies + 1) // len(wave)))
            bank.append(torch.stack([wave[i * samples :][:samples] for i in range(copies)]))
    if clips is not None and len(clips) > 40 * samples:
        for voices in (3, 5, 8, 8):
            at = torch.randint(len(clips) - samples, (8, voices))
            babble = [sum(clips[i : i + samples].float() for i in row) for row in at.tolist()]
            bank.append(torch.stack(babble))  # type: ignore[arg-type]
    noises = torch.cat(bank)
    return noises / noises.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)


def room_bank(folder: Path | None, device: torch.device, count: int = 400) -> Tensor:
    """Room responses [N, 0.8 s] of unit energy: measured ones and exponentially decaying noise."""
    samples = int(0.8 * RATE)
    time = torch.arange(samples, device=device) / RATE
    reverberation = 0.08 + 0.6 * torch.rand(count, 1, device=device) ** 1.5  # seconds to -60 dB
    tail = torch.randn(count, samples, device=device) * (-6.9 * time / reverberation).exp()
    tail[:, : int(0.002 * RATE)] = 0
    distance = 0.02 + 0.25 * torch.rand(count, 1, device=device) ** 2
    rooms = tail * distance
    rooms[:, 0] = 1.0
    bank = [rooms]
    if folder is not None:
        for wave in recordings(folder, rooms=True, device=device):
            direct = wave[int(wave.abs().argmax()) :][:samples]
            bank.append(functional.pad(direct, (0, samples - len(direct))).repeat(12, 1))
    rooms = torch.cat(bank)
    return rooms / rooms.square().sum(1, keepdim=True).sqrt()


class Augment:
    """Everything between a clean clip and what a microphone far away might deliver."""

    def __init__(self, noises: Tensor, rooms: Tensor) -> None:
        self.noises, self.rooms = noises, rooms
        self.device = noises.device

    def _chance(self, count: int, probability: float) -> Tensor:
        return torch.rand(count, 1, device=self.device) < probability

    def _between(self, count: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, device=self.device)

    def _channel(self, count: int, bins: int, strength: float) -> Tensor:
        """Gains [B, bins] of a random microphone: a smooth curve, sometimes a narrow band."""
        points = torch.randn(count, 1, 12, device=self.device) * 5.0 * strength  # dB
        tilt = torch.randn(count, 1, 1, device=self.device) * 6.0 * strength
        points = points + tilt * torch.linspace(-1, 1, 12, device=self.device)
        curve = functional.interpolate(points, size=64, mode="linear", align_corners=True)[:, 0]
        hz = torch.linspace(0, RATE / 2, bins, device=self.device)
        place = (torch.log2(hz.clamp(min=60) / 60) / 7.06 * 63).round().long().clamp(max=63)
        gain = 10 ** (curve[:, place] / 20)
        low_pass = torch.where(
            self._chance(count, 0.25 * strength), self._between(count, 3000, 7500), 9000.0
        )
        high_pass = torch.where(
            self._chance(count, 0.25 * strength), self._between(count, 60, 400), 1.0
        )
        gain = gain * torch.sigmoid((low_pass - hz) / 150)
        return gain * torch.sigmoid((hz - high_pass) / (high_pass / 6 + 1))

    def wave(self, wave: Tensor, lengths: Tensor, strength: float) -> Tensor:
        """Rooms, channels, noise and level for [B, S]; silent rows become noise or stay silent."""
        count, samples = wave.shape
        size = samples + self.rooms.shape[1]
        spectrum = torch.fft.rfft(wave, size)
        pick = torch.randint(len(self.rooms), (count,), device=self.device)
        rooms = torch.fft.rfft(self.rooms[pick], size)
        spectrum = torch.where(self._chance(count, 0.4 * strength), spectrum * rooms, spectrum)
        spectrum = spectrum * self._channel(count, spectrum.shape[1], strength)
        wave = torch.fft.irfft(spectrum, size)[:, :samples]
        del spectrum, rooms

        inside = torch.arange(samples, device=self.device) < lengths[:, None]
        power = (wave.square() * inside).sum(1, keepdim=True) / lengths[:, None]
        rms = power.sqrt()
        silent = rms < 1e-5
        wave = wave / rms.clamp(min=1e-5)
        row = torch.randint(len(self.noises), (count, 1), device=self.device)
        at = torch.randint(self.noises.shape[1], (count, 1), device=self.device)
        place = (at + torch.arange(samples, device=self.device)) % self.noises.shape[1]
        noise = self.noises[row, place]
        decibels = self._between(count, 2.0, 40.0)
        noisy = self._chance(count, 0.7 * strength) | silent
        amount = torch.where(noisy, 10 ** (-decibels / 20), 0.0)
        amount = torch.where(silent & self._chance(count, 0.9), 1.0, amount * ~silent)
        wave = wave * ~silent + noise * amount
        level = 10 ** (self._between(count, -42.0, -12.0) / 20)
        level = torch.where(self._chance(count, 0.1 + 0.9 * strength), level, 0.1)
        wave = wave * level
        wave = wave + torch.randn_like(wave) * 10 ** (self._between(count, -7.0, -3.3))
        clip = torch.where(self._chance(count, 0.05 * strength), 3.0 * level, 1.0)
        wave = torch.maximum(torch.minimum(wave, clip), -clip)
        return wave * inside * ~(silent & (amount == 0))

    def warp(self, mel: Tensor, lengths: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Stretch time and bend the frequency axis of [B, M, L] (other tempos, other throats)."""
        count, bands, frames = mel.shape
        on = self._chance(count, 0.7)
        tempo = torch.where(on, self._between(count, -0.22, 0.22) * strength, 0.0).exp()
        bend = torch.where(on, self._between(count, -0.10, 0.10) * strength, 0.0)
        tempo = torch.maximum(tempo, lengths[:, None] / frames)  # nothing outgrows the batch
        new_lengths = (lengths / tempo[:, 0]).long().clamp(min=8, max=frames)
        longest = frames
        t = torch.arange(longest, device=self.device) * tempo  # [B, L']
        m = torch.arange(bands, device=self.device) / (bands - 1)
        f = m + bend * (torch.pi * m).sin()  # ends stay in place
        grid = torch.empty(count, bands, longest, 2, device=self.device)
        grid[..., 0] = ((t + 0.5) / frames * 2 - 1)[:, None, :]
        grid[..., 1] = (f * 2 - 1)[:, :, None] * (1 - 1 / bands)
        warped = functional.grid_sample(
            mel[:, None], grid, padding_mode="border", align_corners=False
        )[:, 0]
        valid = torch.arange(longest, device=self.device) < new_lengths[:, None]
        return warped * valid[:, None], new_lengths

    def mask(self, mel: Tensor, lengths: Tensor, strength: float) -> Tensor:
        """SpecAugment: two bands and three spans of frames set to the clip's mean."""
        count, bands, frames = mel.shape
        mean = mel.sum((1, 2)) / (lengths * bands)
        band = torch.arange(bands, device=self.device)
        frame = torch.arange(frames, device=self.device)
        hide = torch.zeros(count, bands, frames, dtype=torch.bool, device=self.device)
        for _ in range(2):
            width = self._between(count, 0, 18 * strength)
            start = torch.rand(count, 1, device=self.device) * (bands - width)
            hide |= ((band >= start) & (band < start + width))[:, :, None]
        for _ in range(3):
            width = torch.minimum(self._between(count, 0, 18 * strength), lengths[:, None] * 0.12)
            start = torch.rand(count, 1, device=self.device) * (lengths[:, None] - width)
            hide |= ((frame >= start) & (frame < start + width))[:, None, :]
        return torch.where(hide, mean[:, None, None], mel)
