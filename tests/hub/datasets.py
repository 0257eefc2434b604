"""Small speech sets laid out as the published ones that the data presets read."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import yaml
from datasets import Audio, Features, Value

ROWS = 12  # in a split
NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
TYPES = {str: Value("string"), int: Value("int64"), float: Value("float32")}


@dataclass(frozen=True)
class Layout:
    """A published set: configuration -> split -> path with `{}` for the shard, and its columns."""

    configs: Mapping[str, Mapping[str, str]]
    id: str
    audio: str = "audio"
    text: str = "text"
    speaker: str | None = None
    speaker_type: type = str
    style: Callable[[str], str] = str  # of the transcripts
    suffix: str = "wav"
    rate: int = 16_000
    gated: bool = False
    other: Mapping[str, Any] = field(default_factory=dict)  # further columns, with a value

    def row(self, config: str, split: str, n: int) -> dict[str, Any]:
        name = f"{config}-{split}-{n:04d}"
        audio = {"bytes": clip(n, self.rate, self.suffix), "path": f"{name}.{self.suffix}"}
        row = {
            self.id: name,
            self.audio: audio,
            self.text: self.style(f"the train to platform {NUMBERS[n]} is late"),
            **self.other,
        }
        if self.speaker:
            row[self.speaker] = self.speaker_type(1000 + n % 4)
        return row

    @property
    def features(self) -> Features:
        values = self.row("", "", 0)
        audio = {self.audio: Audio(self.rate)}
        return Features({k: audio.get(k) or TYPES[type(v)] for k, v in values.items()})

    def files(self) -> dict[str, bytes]:
        """All files of the set: a training split lies in two shards, any other in one."""
        files: dict[str, bytes] = {}
        described, data = [], []
        for config, splits in self.configs.items():
            for split, path in splits.items():
                shards = 2 if split.startswith("train") else 1
                for shard in range(shards):
                    part = range(shard * ROWS // shards, (shard + 1) * ROWS // shards)
                    rows = [self.row(config, split, n) for n in part]
                    file = io.BytesIO()
                    schema = self.features.arrow_schema
                    pq.write_table(pa.Table.from_pylist(rows, schema), file, row_group_size=4)
                    number = f"{shard:05d}-of-{shards:05d}" if "-{}" in path else f"{shard:04d}"
                    files[path.format(number)] = file.getvalue()
            found = [{"name": s, "num_bytes": 100_000, "num_examples": ROWS} for s in splits]
            fields = self.features._to_yaml_list()
            described.append({"config_name": config, "features": fields, "splits": found})
            paths = [{"split": s, "path": path.format("*")} for s, path in splits.items()]
            data.append({"config_name": config, "data_files": paths})
        card = {"license": "cc-by-4.0", "dataset_info": described, "configs": data}
        text = f"---\n{yaml.safe_dump(card, sort_keys=False)}---\n\n# A small stand-in\n"
        return {**files, "README.md": text.encode()}


@cache
def clip(number: int, rate: int, suffix: str) -> bytes:
    """Tones in syllables and a little noise, 0.5 to 2 s, as an encoded file."""
    time = np.arange(int((0.5 + 1.5 * number / ROWS) * rate)) / rate
    pitch = 110 * 2 ** (number / 6)
    wave = sum(np.sin(2 * np.pi * pitch * n * time) / n for n in (1, 2, 3))
    wave = 0.05 * wave * (1 + np.sin(2 * np.pi * 3 * time))
    wave += np.random.default_rng(number).normal(0, 0.002, len(time))
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=suffix.upper())
    return file.getvalue()


def sentence(text: str) -> str:
    return f"{text.capitalize()}."


def folders(configs: str, splits: str, path: str = "{config}/{split}-{{}}.parquet") -> Any:
    """The usual layout: a folder for each configuration."""
    return {
        config: {split: path.format(config=config, split=split) for split in splits.split()}
        for config in configs.split()
    }


LIBRI = "{config}/{split}/{{}}.parquet"
SETS = {
    "speechbrain/LoquaciousSet": Layout(
        folders("small medium large clean", "train dev test"),
        *("ID", "wav"),
        speaker="spk_id",
        other={"duration": 1.0, "sex": "female"},
    ),
    "openslr/librispeech_asr": Layout(
        folders("clean", "train.100 train.360 validation test", LIBRI)
        | folders("other", "train.500 validation test", LIBRI),
        "id",
        speaker="speaker_id",
        speaker_type=int,
        style=str.upper,
        suffix="flac",
        other={"file": "", "chapter_id": 134_315},
    ),
    "fixie-ai/common_voice_17_0": Layout(
        folders("en de", "train validation test"),
        "path",
        text="sentence",
        speaker="client_id",
        style=sentence,
        suffix="mp3",
        rate=48_000,
        other={"up_votes": 2, "down_votes": 0, "locale": "", "segment": ""},
    ),
    "facebook/voxpopuli": Layout(
        folders("en", "train validation test"),
        "audio_id",
        text="normalized_text",
        speaker="speaker_id",
        other={"raw_text": "", "language": 0, "accent": "None"},
    ),
    "sanchit-gandhi/tedlium-data": Layout(
        folders("default", "train validation test", "data/{split}-{{}}.parquet"),
        "id",
        speaker="speaker_id",
        other={"gender": "male", "file": ""},
    ),
    "edinburghcstr/ami": Layout(
        folders("ihm sdm", "train validation test"),
        "audio_id",
        speaker="speaker_id",
        style=str.upper,
        other={"meeting_id": "EN2001a", "begin_time": 3.0, "end_time": 5.0},
    ),
    "hf-audio/esb-datasets-test-only-sorted": Layout(
        folders("ami common_voice earnings22 gigaspeech spgispeech tedlium voxpopuli", "test")
        | folders("librispeech", "test.clean test.other"),
        "id",
        other={"dataset": "", "audio_length_s": 1.0},
    ),
    "speechcolab/gigaspeech": Layout(
        folders("xs m", "train validation test"),
        "segment_id",
        style=lambda text: f"{text.upper()} <PERIOD>",
        gated=True,
        other={"speaker": "N/A", "begin_time": 3.0, "end_time": 5.0, "title": "N/A"},
    ),
    "kensho/spgispeech": Layout(
        folders("S M", "train validation test"),
        "wav_filename",
        text="transcript",
        style=sentence,
        gated=True,
        other={"wav_filesize": 1},
    ),
}
