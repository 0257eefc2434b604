"""Recordings for the tests, encoded by libsndfile and FFmpeg."""

import io

import av
import numpy as np
import soundfile

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


def sine(hertz: float, seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """A tone [S, C] that fades in and out, so that codecs do not ring at its ends."""
    time = np.arange(round(seconds * rate)) / rate
    fade = np.minimum(1.0, np.minimum(time, time[::-1]) / 0.02)
    tone = 0.5 * fade * np.sin(2 * np.pi * hertz * time)
    return np.repeat(tone[:, None], channels, axis=1).astype(np.float32)


def encoded(samples: np.ndarray, rate: int, container: str, codec: str) -> bytes:
    """Samples [S, C] as the bytes of a file; upper-case containers are libsndfile's."""
    file = io.BytesIO()
    if container.isupper():
        soundfile.write(file, samples, rate, format=container, subtype=codec)
        return file.getvalue()
    layout = LAYOUTS[samples.shape[1]]
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        stream.open()
        planar = np.ascontiguousarray(samples.T)
        frame = av.AudioFrame.from_ndarray(planar, format="fltp", layout=layout)
        frame.sample_rate = rate
        to_codec = av.AudioResampler(stream.format.name, layout, rate, stream.frame_size)
        for piece in [*to_codec.resample(frame), *to_codec.resample(None), None]:
            output.mux(stream.encode(piece))
    return file.getvalue()
