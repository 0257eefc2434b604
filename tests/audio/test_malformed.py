"""Malformed recordings: used or rejected by reason, quickly and in little memory."""

import random
import resource
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tests.audio.encoding import encoded

from tiny_audio.compose import compose
from tiny_audio.data.prepare import Preparer, quality_limits
from tiny_audio.data.records import Record, Reject, Utterance
from tiny_audio.text.labels import LabelRules

RATE = 16_000
PCM = ("wav", "flac", "aiff", "caf", "au", "w64", "rf64")
CONTAINERS = {
    **{suffix: (suffix.upper(), "PCM_16") for suffix in PCM},
    "float.wav": ("WAV", "FLOAT"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "sph": ("NIST", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "m4a": ("ipod", "aac"),
    "mp4": ("mp4", "alac"),
    "webm": ("webm", "libopus"),
    "mkv": ("matroska", "aac"),
    "aac": ("adts", "aac"),
    "ts": ("mpegts", "aac"),
}
Case = tuple[str, bytes]


def speech(seconds: float = 1.0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """Modulated noise [S, C], loud enough and never clipped."""
    rng = np.random.default_rng(5)
    time_axis = np.arange(max(1, round(seconds * rate))) / rate
    sound = 0.1 * rng.standard_normal(len(time_axis)) * np.sin(3 * np.pi * time_axis) ** 2
    return np.repeat(sound[:, None], channels, axis=1).astype(np.float32)


def wav(pcm: bytes, *, rate: int = RATE, channels: int = 1, bits: int = 16, **sizes: int) -> bytes:
    """A WAV file whose header may say anything: `riff` and `data` sizes, `tag`, `align`."""
    align = sizes.get("align", channels * bits // 8)
    form = struct.pack(
        "<HHIIHH", sizes.get("tag", 1), channels, rate, rate * align & 0xFFFFFFFF, align, bits
    )
    body = b"fmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", sizes.get("data", len(pcm))) + pcm
    return b"RIFF" + struct.pack("<I", sizes.get("riff", 4 + len(body))) + b"WAVE" + body


def whole_files() -> dict[str, bytes]:
    found = {}
    for suffix, kind in CONTAINERS.items():
        rate = 48_000 if suffix in ("opus", "webm") else RATE
        found[suffix] = encoded(speech(rate=rate), rate, *kind)
    return found


def damaged(files: dict[str, bytes]) -> Iterator[Case]:
    """Each kind cut, fuzzed, blanked, lengthened and misnamed."""
    names = list(files)
    for number, (suffix, data) in enumerate(files.items()):
        for share in (0.95, 0.5, 0.1):
            yield f"cut-{share}.{suffix}", data[: int(len(data) * share)]
        for size in (4, 12, 44):
            yield f"head-{size}.{suffix}", data[:size]
        for seed in range(4):
            chaos, fuzzed = random.Random(f"{suffix} {seed}"), bytearray(data)
            extent = (16, 64, 400, len(data))[seed]
            for _ in range((3, 6, 20, 200)[seed]):
                fuzzed[chaos.randrange(min(extent, len(data)))] = chaos.randrange(256)
            yield f"fuzz-{seed}.{suffix}", bytes(fuzzed)
        yield f"blank-head.{suffix}", bytes(16) + data[16:]
        yield f"blank-tail.{suffix}", data[: len(data) // 2] + bytes(len(data) // 2)
        yield f"twice.{suffix}", data + data
        yield f"trailer.{suffix}", data + random.Random(suffix).randbytes(3_000)
        yield f"called.{names[(number + 5) % len(names)]}", data


def lying(files: dict[str, bytes]) -> Iterator[Case]:
    """Headers that declare absurd sizes, rates, widths and counts."""
    pcm = files["wav"][44:]
    for size in (0, 1, 0x7FFFFFF0, 0xFFFFFFF0, 0xFFFFFFFF):
        yield f"data-{size:#x}.wav", wav(pcm, data=size)
        yield f"riff-{size:#x}.wav", wav(pcm, riff=size)
    for field, values in {
        "rate": (0, 1, 999, 768_001, 0x7FFFFFFF, 0xFFFFFFFF),
        "bits": (0, 1, 7, 33, 64, 65_535),
        "tag": (0, 0x55, 0x161, 0xFFFE, 0xFFFF),
        "align": (0, 1, 65_535),
    }.items():
        for value in values:
            yield f"{field}-{value}.wav", wav(pcm, **{field: value})
    for channels in (0, 255, 1_024, 65_535):
        yield f"channels-{channels}.wav", wav(pcm, channels=channels, align=2)
    for suffix, mark, width in (
        ("aiff", b"SSND", 4), ("caf", b"data", 8), ("rf64", b"ds64", 28), ("w64", b"data", 24),
        ("m4a", b"stsz", 12), ("m4a", b"mdhd", 24), ("mp4", b"stts", 12), ("mp4", b"moov", 0),
        ("m4a", b"stsc", 12), ("m4a", b"stco", 8), ("mp4", b"alac", 30), ("m4a", b"esds", 8),
    ):  # fmt: skip
        data = bytearray(files[suffix])
        at = data.find(mark) + len(mark)
        data[at : at + max(4, width)] = b"\x7f" + b"\xff" * (max(4, width) - 1)
        yield f"huge-{mark.decode()}.{suffix}", bytes(data)
    flac, au, webm, sph = (files[suffix] for suffix in ("flac", "au", "webm", "sph"))
    for samples in (0, 1, 2**36 - 1):
        fields = int.from_bytes(flac[18:26], "big") >> 36 << 36 | samples
        yield f"samples-{samples}.flac", flac[:18] + fields.to_bytes(8, "big") + flac[26:]
    yield "block-length.flac", flac[:5] + b"\xff\xff\xff" + flac[8:]
    for size in (0, 0x7FFFFFFF, 0xFFFFFFFE):
        yield f"size-{size:#x}.au", au[:8] + struct.pack(">I", size) + au[12:]
    yield "offset.au", au[:4] + struct.pack(">I", 0xFFFFFFFF) + au[8:]
    yield "granule.ogg", files["ogg"][:-2_000] + files["ogg"][-2_000:].replace(b"OggS", b"OggX")
    yield "id3-huge.mp3", b"ID3\4\0\0\x7f\x7f\x7f\x7f" + files["mp3"]
    yield "ebml-huge.webm", webm[:4] + b"\x01\xff\xff\xff\xff\xff\xff\xfe" + webm[12:]
    yield "count.sph", sph.replace(b"sample_count -i 16000", b"sample_count -i 99999")


def odd_samples() -> Iterator[Case]:
    """Decodable, and yet: not finite, constant, one sample, many channels, extreme rates."""
    for name, value, where in (("nan", np.nan, 0), ("inf", np.inf, -1)):
        samples = speech()
        samples[where] = value
        yield f"{name}-at-{where}.wav", encoded(samples, RATE, "WAV", "FLOAT")
    for name, samples in {
        "all-nan": np.full((RATE, 1), np.nan, np.float32),
        "dc": np.full((RATE, 1), 0.5, np.float32),
        "full-dc": np.ones((RATE, 1), np.float32),
        "silence": np.zeros((RATE, 1), np.float32),
        "giant": speech() * np.float32(1e30),
        "sixteen-bits-as-float": speech() * 32_768,
        "square": np.sign(speech()),
        "one-sample": speech()[:1],
        "no-sample": speech()[:0],
    }.items():
        yield f"{name}.wav", encoded(samples, RATE, "WAV", "FLOAT")
    for channels in (2, 8, 32, 255):
        samples = speech(0.5, RATE, channels)
        yield f"{channels}-channels.wav", encoded(samples, RATE, "WAV", "PCM_16")
    yield "8-channels.flac", encoded(speech(0.5, RATE, 8), RATE, "FLAC", "PCM_24")
    yield "8-channels.ogg", encoded(speech(0.5, 48_000, 8), 48_000, "OGG", "VORBIS")
    for rate in (1_000, 4_000, 11_025, 192_000, 384_000, 768_000):
        yield f"{rate}-hz.wav", encoded(speech(0.5, rate), rate, "WAV", "PCM_24")
    yield "192000-hz.flac", encoded(speech(0.5, 192_000), 192_000, "FLAC", "PCM_24")
    for samples in (0, 1, 100):
        for suffix in ("flac", "ogg", "mp3", "aiff"):
            data = encoded(speech()[:samples], RATE, *CONTAINERS[suffix])
            yield f"{samples}-samples.{suffix}", data


def foreign() -> Iterator[Case]:
    """Other kinds of files under the names of recordings."""
    text = "It was the best of times, it was the worst of times. " * 50
    rng = random.Random(1)
    yield from {
        "empty.wav": b"",
        "empty.mp3": b"",
        "one-byte.flac": b"f",
        "zeros.wav": bytes(1 << 20),
        "ones.mp3": b"\xff" * (1 << 16),
        "noise.mp3": rng.randbytes(1 << 20),
        "noise.wav": rng.randbytes(1 << 16),
        "text.wav": text.encode(),
        "page.mp3": b"<!doctype html><html><body>404</body></html>",
        "pointer.wav": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "list.m3u8": b"#EXTM3U\n#EXTINF:3,\n/etc/hostname\n#EXT-X-ENDLIST\n",
        "concat.txt": b"ffconcat version 1.0\nfile '/etc/hostname'\n",
        "zip.wav": b"PK\3\4" + rng.randbytes(500),
        "gzip.wav": b"\x1f\x8b\x08" + rng.randbytes(500),
        "pdf.mp3": b"%PDF-1.7\n" + rng.randbytes(500),
        "picture.wav": b"\x89PNG\r\n\x1a\n" + rng.randbytes(500),
        "webp.wav": b"RIFF\x24\0\0\0WEBPVP8 " + bytes(24),
        "only-id3.mp3": b"ID3\3\0\0\0\0\0\x0a" + bytes(10),
        "only-ftyp.mp4": b"\0\0\0\x18ftypM4A \0\0\0\0" + bytes(8),
        "only-ogg.ogg": b"OggS" + bytes(40),
        "only-flac.flac": b"fLaC" + bytes(40),
    }.items()


def cases() -> Iterator[Case]:
    """Every case as a name that ends like a file and its bytes; names may come twice."""
    files = whole_files()
    yield from ((f"whole.{suffix}", data) for suffix, data in files.items())
    yield from damaged(files)
    yield from lying(files)
    yield from odd_samples()
    yield from foreign()


REASONS = {
    "used", "empty", "not_audio", "truncated", "not_finite", "too_long", "too_short", "unreadable",
    "silent", "clipped",
}  # fmt: skip
COUNTED = (*PCM, "ogg", "opus", "sph", "m4a", "mp4")


OUTCOMES = {
    "nan-at-0.wav": "not_finite",
    "inf-at--1.wav": "not_finite",
    "dc.wav": "silent",
    "silence.wav": "silent",
    "square.wav": "clipped",
    "sixteen-bits-as-float.wav": "clipped",
    "one-sample.wav": "too_short",
    "no-sample.wav": "empty",
    "0-samples.flac": "empty",
    "0-samples.aiff": "empty",
    "8-channels.wav": "used",
    "255-channels.wav": "used",
    "192000-hz.flac": "used",
    "1000-hz.wav": "used",
    "rate-999.wav": "unreadable",
    "bits-64.wav": "unreadable",
    "data-0xffffffff.wav": "used",
    "zeros.wav": "not_audio",
    "pointer.wav": "not_audio",
    "list.m3u8": "not_audio",
    "empty.mp3": "empty",
    "missing.wav": "unreadable",
    "zero": "unreadable",
}


def test_each_is_used_or_rejected_by_reason_quickly_and_in_little_memory(tmp_path, capfd):
    limits = quality_limits(compose(["model=tiny", "output_dir=unused"]).data)
    prepare = Preparer(LabelRules(), min_seconds=0.2, max_seconds=30.0, quality=limits)
    files = [tmp_path, tmp_path / "missing.wav", Path("nul\0.wav"), Path("x" * 5_000)]
    files.append(Path("/dev/zero"))
    for number, (name, data) in enumerate(cases()):
        files.append(tmp_path / str(number) / name)
        files[-1].parent.mkdir()
        files[-1].write_bytes(data)
    assert len(files) > 400
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    found: dict[str, str] = {}
    for file in files:
        began = time.perf_counter()
        result = prepare(Record("r", "main", file, "a few words"))
        assert time.perf_counter() - began < 10, file
        found[file.name] = result.reason if isinstance(result, Reject) else "used"
        assert isinstance(result, Utterance) or "\n" not in result.message, file
        if file.name.startswith(("whole", "called")):
            assert found[file.name] == "used", file
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
    assert capfd.readouterr().err == ""  # the decoders keep their warnings to themselves
    assert set(found.values()) == REASONS  # every reason is met
    assert {case: found[case] for case in OUTCOMES} == OUTCOMES
    for suffix in COUNTED:  # their length is declared
        for share in (0.5, 0.1):
            assert found[f"cut-{share}.{suffix}"] in ("truncated", "unreadable"), (suffix, share)
