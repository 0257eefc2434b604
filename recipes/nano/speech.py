"""Synthetic speech in shards: espeak-ng, and flite and Piper voices where their files are given.

A shard is `NAME.pcm` (int16, 16 kHz, clips one after the other) and `NAME.jsonl` (start, samples,
text, voice), renamed into place when whole, so that a trainer may read while others still write.
Runs of clips share a voice, so that neighbours can be joined to longer utterances.
"""

import ctypes
import json
import multiprocessing as mp
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from recipes.nano.text import corpus
from tiny_audio.data.grammar import sentences
from tiny_audio.data.synthetic import Synthesiser, Voice, draw_voice, resample

Speak = Callable[[str, random.Random, str], tuple[np.ndarray, str]]
SAME_VOICE = 6  # clips in a row


class Espeak:
    """espeak-ng voices; the split decides which variants are used."""

    def __init__(self) -> None:
        self.speak = Synthesiser()
        self.voice: Voice | None = None
        self.left = 0

    def __call__(self, text: str, rng: random.Random, split: str) -> tuple[np.ndarray, str]:
        if not self.left or self.voice is None:
            self.voice, self.left = draw_voice(rng, split), SAME_VOICE
        self.left -= 1
        return self.speak(text, self.voice), "espeak/" + self.voice.name


class _Wave(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_char_p), ("rate", ctypes.c_int), ("count", ctypes.c_int),
        ("channels", ctypes.c_int), ("samples", ctypes.POINTER(ctypes.c_short)),
    ]  # fmt: skip


class _FliteVoice(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("features", ctypes.c_void_p)]


class Flite:
    """The four flite voices of Debian's libflite1 (slt, rms, awb: real speakers' parameters)."""

    NAMES = ("slt", "rms", "awb", "slt", "rms", "awb", "kal16")

    def __init__(self, folder: Path) -> None:
        for name in ("libflite.so.1", "libflite_usenglish.so.1", "libflite_cmulex.so.1"):
            self.library = ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(folder / "libflite.so.1"))
        self.library.flite_init()
        self.library.flite_text_to_wave.restype = ctypes.POINTER(_Wave)
        self.library.flite_text_to_wave.argtypes = [ctypes.c_char_p, ctypes.POINTER(_FliteVoice)]
        self.library.delete_wave.argtypes = [ctypes.POINTER(_Wave)]
        self.library.flite_feat_set_float.argtypes = [
            ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float,
        ]  # fmt: skip
        self.voices = {}
        for name in set(self.NAMES):
            shared = ctypes.CDLL(str(folder / f"libflite_cmu_us_{name}.so.1"))
            register = getattr(shared, f"register_cmu_us_{name}")
            register.restype = ctypes.POINTER(_FliteVoice)
            register.argtypes = [ctypes.c_char_p]
            self.voices[name] = register(None)
        self.left, self.name = 0, "slt"

    def __call__(self, text: str, rng: random.Random, split: str) -> tuple[np.ndarray, str]:
        if not self.left:
            self.name, self.left = rng.choice(self.NAMES), SAME_VOICE
            stretch = rng.uniform(0.75, 1.2)
            features = self.voices[self.name].contents.features
            self.library.flite_feat_set_float(features, b"duration_stretch", stretch)
        self.left -= 1
        made = self.library.flite_text_to_wave(text.encode(), self.voices[self.name])
        wave = made.contents
        samples = np.ctypeslib.as_array(wave.samples, (wave.count,)).astype(np.float32) / 32768.0
        rate = wave.rate
        self.library.delete_wave(made)
        return samples if rate == 16000 else resample(samples, rate), "flite/" + self.name


def _phonemiser() -> ctypes.CDLL:
    """espeak-ng, loaded to write phonemes: American English, nothing is spoken."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0)
    library.espeak_SetVoiceByName(b"gmw/en-US")
    return library


class Piper:
    """One Piper voice (model.onnx with model.onnx.json); espeak-ng gives the phonemes."""

    def __init__(self, model: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        settings = json.loads(Path(f"{model}.json").read_text())
        self.ids: dict[str, list[int]] = settings["phoneme_id_map"]
        self.rate = int(settings["audio"]["sample_rate"])
        self.name = model.stem
        self.espeak = _phonemiser()

    def __call__(self, text: str, rng: random.Random, split: str) -> tuple[np.ndarray, str]:
        pointer = ctypes.c_char_p(text.encode())
        phonemes = ""
        while pointer.value:
            phonemes += self.espeak.espeak_TextToPhonemes(ctypes.byref(pointer), 1, 2).decode()
        ids = [1, 0]
        for symbol in phonemes + ".":
            ids += [*self.ids.get(symbol, []), 0]
        scales = [rng.uniform(0.5, 1.0), rng.uniform(0.75, 1.25), rng.uniform(0.6, 1.0)]
        feed = {
            "input": np.array([[*ids, 2]], dtype=np.int64),
            "input_lengths": np.array([len(ids) + 1], dtype=np.int64),
            "scales": np.array(scales, dtype=np.float32),
        }
        native = self.session.run(None, feed)[0].reshape(-1)
        return resample(native, self.rate), "piper/" + self.name


def make_engine(spec: str) -> Speak:
    """An engine from "espeak", "flite:FOLDER" or "piper:MODEL.onnx"."""
    kind, _, path = spec.partition(":")
    if kind == "espeak":
        return Espeak()
    return Flite(Path(path)) if kind == "flite" else Piper(Path(path))


def draw_text(phrases: list[str], everyday: Iterator[str], rng: random.Random) -> str:
    """A phrase to speak: books and everyday sentences, short ones and single words too."""
    kind = rng.random()
    if kind < 0.36:
        return next(everyday)
    words = rng.choice(phrases).split()
    if kind < 0.50:
        start = rng.randrange(len(words))
        words = words[start : start + rng.randint(1, 4)]
    return " ".join(words[:26])


def draw_clips(
    engine: Speak, phrases: list[str], split: str, seed: str, seconds: float
) -> Iterator[tuple[np.ndarray, str, str]]:
    """Clips int16 with text and voice, `seconds` in all; of a new engine the same by `seed`."""
    rng = random.Random(seed)
    everyday = sentences(rng.getrandbits(40), split)
    while seconds > 0:
        text = draw_text(phrases, everyday, rng)
        wave, voice = engine(text, rng, split)
        loud = np.flatnonzero(np.abs(wave) > 0.003)
        if len(loud) < 2000:
            continue
        wave = wave[max(0, loud[0] - 1600) : loud[-1] + 1600]
        if not 0.25 <= len(wave) / 16000 <= 14 or np.abs(wave).max() < 0.01:
            continue
        wave = wave * (0.7 / np.abs(wave).max())
        yield (np.clip(wave, -1, 1) * 32767).astype(np.int16), text, voice
        seconds -= len(wave) / 16000


def write_shards(
    spec: str, work: Path, split: str, seed: int, hours: float, shard_s: float
) -> None:
    """Worker: speak until there are `hours` in shards of about `shard_s` seconds of audio.

    Shards that are there are kept, so a worker that was stopped goes on where it was.
    """
    if hasattr(os, "nice"):
        os.nice(10)  # the trainers beside it come first
    phrases = corpus(work, split, 0)
    engine = make_engine(spec)
    left, number = hours * 3600.0, 0
    while left > 1.0:
        name = f"{spec.partition(':')[0]}-{split}-{seed}-{number}"
        number += 1
        pcm, table = (work / "speech" / f"{name}.{end}" for end in ("pcm", "jsonl"))
        if not table.exists():
            clips, rows, start = [], [], 0
            for clip, text, voice in draw_clips(engine, phrases, split, name, min(shard_s, left)):
                clips.append(clip)
                rows.append({"start": start, "samples": len(clip), "text": text, "voice": voice})
                start += len(clip)
            Path(f"{pcm}.part").write_bytes(np.concatenate(clips).tobytes())
            os.replace(f"{pcm}.part", pcm)
            Path(f"{table}.part").write_text("\n".join(json.dumps(row) for row in rows))
            os.replace(f"{table}.part", table)
        left -= pcm.stat().st_size / 2 / 16000


def speak_in_background(
    work: Path, plan: list[tuple[str, int, float]], shard_s: float
) -> list[mp.process.BaseProcess]:
    """Start workers for a plan of (engine, workers, hours each) and for the test shards."""
    (work / "speech").mkdir(parents=True, exist_ok=True)
    context = mp.get_context("spawn")  # nothing of the trainer's goes along
    spoken = sum(workers * hours for _, workers, hours in plan)
    jobs = [("espeak", work, "test", 1, min(0.5, spoken), shard_s)]
    for spec, workers, hours in plan:
        for _ in range(workers):
            jobs.append((spec, work, "train", 1000 + len(jobs), hours, shard_s))
    started = [context.Process(target=write_shards, args=job, daemon=True) for job in jobs]
    for worker in started:
        worker.start()
    return list(started)


def wait_for(workers: list[mp.process.BaseProcess], poll_s: float = 1.0) -> None:
    """Wait until every worker is done; raises RuntimeError if one failed."""
    while any(worker.is_alive() for worker in workers):
        time.sleep(poll_s)
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a speech worker failed: see its traceback above")
