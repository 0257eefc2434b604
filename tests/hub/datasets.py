"""Small speech sets laid out as the published ones that the data presets read."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import yaml
from datasets import Audio, ClassLabel, Features, Value

ROWS = 12  # in a split
SENTENCES = (
    "the old man walked slowly to the river",
    "she had never seen such a bright morning",
    "we will meet again before the end of summer",
    "he opened the letter and began to read",
    "nothing was left of the house but a wall",
    "they asked him to stay until the rain had stopped",
    "a small boat lay at the edge of the water",
    "I do not know what you mean",
    "the children ran out into the garden",
    "it was late when the train came in",
    "most of the members voted for the report",
    "there are three things that I want to say",
)

Row = Callable[[str, str, int], dict[str, Any]]  # of a configuration, a split and a number
TEXT, INTEGER, FLOAT = Value("string"), Value("int64"), Value("float32")


def say(number: int) -> str:
    """A transcript in lower case, without punctuation."""
    return SENTENCES[number % len(SENTENCES)]


@cache
def clip(number: int, rate: int = 16_000, kind: str = "FLAC") -> bytes:
    """Tones and a little noise, 0.5 to 2 s, as an encoded file."""
    seconds = 0.5 + 1.5 * (number % ROWS) / ROWS
    time = np.arange(int(seconds * rate)) / rate
    pitch = 110 * 2 ** (number % ROWS / 6)
    wave = sum(np.sin(2 * math.pi * pitch * n * time) / n for n in (1, 2, 3))
    wave = wave * (0.5 + 0.5 * np.sin(2 * math.pi * 3 * time))  # syllables
    wave = 0.1 * wave + np.random.default_rng(number).normal(0, 0.002, len(time))
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind)
    return file.getvalue()


def sound(name: str, number: int, rate: int = 16_000) -> dict[str, Any]:
    """A value of a column of audio."""
    kind = name.rsplit(".")[-1].upper()
    return {"bytes": clip(number % ROWS, rate, kind), "path": name}


def build(
    configs: Mapping[str, Mapping[str, str]],
    features: Mapping[str, Any],
    row: Row,
    *,
    shards: int = 2,
    card: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """The files of a set: `configs` is configuration -> split -> path with `{}` for the shard.

    A training split lies in `shards` files, any other in one.
    """
    schema = Features(features).arrow_schema
    files: dict[str, bytes] = {}
    described: list[dict[str, Any]] = []
    for config, splits in configs.items():
        info: list[dict[str, Any]] = []
        for split, path in splits.items():
            rows = [row(config, split, number) for number in range(ROWS)]
            count = shards if split.startswith("train") else 1
            size = 0
            for shard in range(count):
                part = rows[shard * ROWS // count : (shard + 1) * ROWS // count]
                file = io.BytesIO()
                table = pa.Table.from_pylist(part, schema=schema)
                pq.write_table(table, file, row_group_size=4)
                number = f"{shard:05d}-of-{count:05d}" if "-{}" in path else f"{shard:04d}"
                files[path.format(number)] = file.getvalue()
                size += table.nbytes
            info.append({"name": split, "num_bytes": size, "num_examples": ROWS})
        sizes = {"dataset_size": sum(entry["num_bytes"] for entry in info)}
        fields = Features(features)._to_yaml_list()
        sizes["download_size"] = sizes["dataset_size"]
        described.append({"config_name": config, "features": fields, "splits": info, **sizes})
    data = [
        {
            "config_name": config,
            "data_files": [{"split": s, "path": p.format("*")} for s, p in splits.items()],
        }
        for config, splits in configs.items()
    ]
    meta = {**(card or {}), "dataset_info": described, "configs": data}
    text = yaml.safe_dump(meta, sort_keys=False)
    files["README.md"] = f"---\n{text}---\n\n# A small stand-in\n".encode()
    return files


def _plain(names: list[str], splits: list[str]) -> dict[str, dict[str, str]]:
    """The usual layout: a folder for each configuration."""
    return {name: {split: f"{name}/{split}-{{}}.parquet" for split in splits} for name in names}


def loquacious() -> dict[str, bytes]:
    """speechbrain/LoquaciousSet."""

    def row(config: str, split: str, n: int) -> dict[str, Any]:
        name = f"{config}_{split}_{n:04d}"
        wav = sound(f"{name}.wav", n)
        about = {"duration": soundfile.info(io.BytesIO(wav["bytes"])).duration, "sex": "female"}
        return {"ID": name, "wav": wav, "spk_id": f"speaker{n % 4}", "text": say(n), **about}

    features = {"ID": TEXT, "duration": FLOAT, "wav": Audio(16_000), "spk_id": TEXT}
    features |= {"sex": TEXT, "text": TEXT}
    configs = _plain(["small", "medium", "large", "clean"], ["train", "dev", "test"])
    return build(configs, features, row, card={"license": "cc-by-4.0", "language": ["en"]})


def librispeech() -> dict[str, bytes]:
    """openslr/librispeech_asr: transcripts in capitals."""

    def row(config: str, split: str, n: int) -> dict[str, Any]:
        speaker, chapter = 1000 + n % 4 + 10 * len(split), 134_315
        name = f"{speaker}-{chapter}-{n:04d}"
        about = {"speaker_id": speaker, "chapter_id": chapter, "id": name}
        file = f"{name}.flac"
        return {"file": file, "audio": sound(file, n), "text": say(n).upper(), **about}

    features = {"file": TEXT, "audio": Audio(16_000), "text": TEXT, "speaker_id": INTEGER}
    features |= {"chapter_id": INTEGER, "id": TEXT}
    splits = {
        "clean": ["train.100", "train.360", "validation", "test"],
        "other": ["train.500", "validation", "test"],
        "all": [
            *("train.clean.100", "train.clean.360", "train.other.500"),
            *("validation.clean", "validation.other", "test.clean", "test.other"),
        ],
    }
    configs = {c: {s: f"{c}/{s}/{{}}.parquet" for s in names} for c, names in splits.items()}
    return build(configs, features, row, card={"license": "cc-by-4.0", "language": ["en"]})


def common_voice() -> dict[str, bytes]:
    """fixie-ai/common_voice_17_0: MP3 at 48 kHz, sentences with case and punctuation."""
    german = ("Das Haus am Fluss ist leer.", "Wir sehen uns im Sommer wieder.")

    def row(config: str, split: str, n: int) -> dict[str, Any]:
        path = f"common_voice_{config}_{n + 100 * len(split)}.mp3"
        text = f"{say(n).capitalize()}." if config == "en" else german[n % 2]
        empty = dict.fromkeys(("age", "gender", "accent", "segment", "variant"), "")
        about = {"client_id": f"client{n % 5}", "sentence": text, "up_votes": 2, "down_votes": 0}
        audio = sound(path, n, rate=48_000)
        return {"path": path, "audio": audio, "locale": config, **about, **empty}

    features = {"client_id": TEXT, "path": TEXT, "audio": Audio(48_000), "sentence": TEXT}
    features |= {"up_votes": INTEGER, "down_votes": INTEGER}
    features |= dict.fromkeys(("age", "gender", "accent", "locale", "segment", "variant"), TEXT)
    return build(_plain(["en", "de"], ["train", "validation", "test"]), features, row)


def voxpopuli() -> dict[str, bytes]:
    """facebook/voxpopuli."""

    def row(config: str, split: str, n: int) -> dict[str, Any]:
        name = f"2017-{split}-{n:02d}"
        text = {"raw_text": f"{say(n).capitalize()}.", "normalized_text": say(n)}
        about = {"language": 0, "gender": "male", "speaker_id": f"{1200 + n % 4}"}
        about |= {"is_gold_transcript": True, "accent": "None"}
        return {"audio_id": name, "audio": sound(f"{name}.wav", n), **text, **about}

    features = {"audio_id": TEXT, "language": ClassLabel(names=["en", "de", "fr"])}
    features |= {"audio": Audio(16_000), "raw_text": TEXT, "normalized_text": TEXT}
    features |= {"gender": TEXT, "speaker_id": TEXT, "is_gold_transcript": Value("bool")}
    features |= {"accent": TEXT}
    return build(_plain(["en"], ["train", "validation", "test"]), features, row)


def tedlium() -> dict[str, bytes]:
    """sanchit-gandhi/tedlium-data: no configurations."""

    def row(config: str, split: str, n: int) -> dict[str, Any]:
        name = f"AlGore_2009-{split}-{n}"
        about = {"speaker_id": f"talker{n % 3}", "gender": "male", "file": f"{name}.sph"}
        return {"audio": sound(f"{name}.wav", n), "text": say(n), "id": name, **about}

    features = {"audio": Audio(16_000), "text": TEXT, "speaker_id": TEXT, "gender": TEXT}
    features |= {"file": TEXT, "id": TEXT}
    paths = {split: f"data/{split}-{{}}.parquet" for split in ("train", "validation", "test")}
    return build({"default": paths}, features, row)


def ami() -> dict[str, bytes]:
    """edinburghcstr/ami: transcripts in capitals."""

    def row(config: str, split: str, n: int) -> dict[str, Any]:
        name = f"AMI_EN2001a_{config}_{split}_{n:07d}"
        about = {"meeting_id": "EN2001a", "microphone_id": "H00", "speaker_id": f"MEO{n % 4:03d}"}
        times = {"begin_time": 3.0 * n, "end_time": 3.0 * n + 2}
        audio = sound(f"{name}.wav", n)
        return {"audio_id": name, "text": say(n).upper(), "audio": audio, **about, **times}

    features = {"meeting_id": TEXT, "audio_id": TEXT, "text": TEXT, "audio": Audio(16_000)}
    features |= {"begin_time": FLOAT, "end_time": FLOAT, "microphone_id": TEXT, "speaker_id": TEXT}
    return build(_plain(["ihm", "sdm"], ["train", "validation", "test"]), features, row)


def esb() -> dict[str, bytes]:
    """hf-audio/esb-datasets-test-only-sorted: the Open ASR Leaderboard's, longest first."""

    def row(config: str, split: str, n: int) -> dict[str, Any]:
        name, n = f"{config}-{split}-{n}", ROWS - 1 - n
        audio = sound(f"{name}.wav", n)
        length = soundfile.info(io.BytesIO(audio["bytes"])).duration
        about = {"dataset": config, "id": name, "audio_length_s": length}
        return {"audio": audio, "text": say(n), **about}

    features = {"audio": Audio(16_000), "dataset": TEXT, "text": TEXT, "id": TEXT}
    features |= {"audio_length_s": FLOAT}
    names = ["ami", "common_voice", "earnings22", "gigaspeech", "spgispeech", "tedlium"]
    configs = _plain([*names, "voxpopuli"], ["test"])
    configs |= _plain(["librispeech"], ["test.clean", "test.other"])
    return build(configs, features, row)


def gigaspeech() -> dict[str, bytes]:
    """speechcolab/gigaspeech: gated; punctuation as tags."""

    def row(config: str, split: str, n: int) -> dict[str, Any]:
        name = f"POD{config.upper()}{split}_S{n:07d}"
        text = f"{say(n).upper()} <PERIOD>"
        times = {"begin_time": 3.0 * n, "end_time": 3.0 * n + 2}
        about = {"speaker": "N/A", "audio_id": "POD0000000001", "title": "N/A", "url": "N/A"}
        audio = sound(f"{name}.wav", n)
        return {"segment_id": name, "text": text, "audio": audio, **times, **about}

    features = {"segment_id": TEXT, "speaker": TEXT, "text": TEXT, "audio": Audio(16_000)}
    features |= {"begin_time": FLOAT, "end_time": FLOAT, "audio_id": TEXT, "title": TEXT}
    features |= {"url": TEXT}
    return build(_plain(["xs", "m"], ["train", "validation", "test"]), features, row)


def spgispeech() -> dict[str, bytes]:
    """kensho/spgispeech: gated; sentences with case and punctuation."""

    def row(config: str, split: str, n: int) -> dict[str, Any]:
        name = f"{config}{split}/{n}.wav"
        audio = sound(name, n)
        text = f"{say(n).capitalize()}."
        return {
            "wav_filename": name, "wav_filesize": len(audio["bytes"]),
            "transcript": text, "audio": audio,
        }  # fmt: skip

    features = {"wav_filename": TEXT, "wav_filesize": INTEGER, "transcript": TEXT}
    features |= {"audio": Audio(16_000)}
    return build(_plain(["S", "M"], ["train", "validation", "test"]), features, row)


SETS: dict[str, Callable[[], dict[str, bytes]]] = {
    "speechbrain/LoquaciousSet": loquacious,
    "openslr/librispeech_asr": librispeech,
    "fixie-ai/common_voice_17_0": common_voice,
    "facebook/voxpopuli": voxpopuli,
    "sanchit-gandhi/tedlium-data": tedlium,
    "edinburghcstr/ami": ami,
    "hf-audio/esb-datasets-test-only-sorted": esb,
    "speechcolab/gigaspeech": gigaspeech,
    "kensho/spgispeech": spgispeech,
}
GATED = {"speechcolab/gigaspeech", "kensho/spgispeech"}
