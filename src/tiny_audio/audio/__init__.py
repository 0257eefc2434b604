"""Waveforms in, log-mel out: reading, features, augmentation, cutting of long recordings."""

SAMPLE_RATE = 16_000  # Hz; of every waveform inside Tiny Audio
