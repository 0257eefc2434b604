"""An evaluation that was stopped goes on where it was.

A test set is recognised in chunks: consecutive utterances with a certain length of audio together.
What shares a batch with what depends on the chunk alone, so that the chunks which a results file
holds whole need not be made again, and the file of a resumed evaluation equals, times aside, that
of one which was never stopped. A chunk that was torn is cut off the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from tiny_audio.data.records import Utterance
from tiny_audio.errors import ConfigError
from tiny_audio.evaluate.records import Record, parse_record
from tiny_audio.evaluate.run import RESULTS, SUMMARY
from tiny_audio.evaluate.sets import Sample

SETTINGS = "settings.json"
CHUNK_BATCHES = 4  # batches' worth of audio in a chunk, sorted by length together


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Take a folder for an evaluation with these settings (JSON values).

    Raises ConfigError where it holds results of another evaluation, naming what differs.
    """
    file = out / SETTINGS
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = [
            f"{name} was {_short(before.get(name))}, now {_short(settings.get(name))}"
            for name in {**before, **settings}
            if before.get(name) != settings.get(name)
        ]
        if changed:
            raise ConfigError(
                f"{out} holds another evaluation ({'; '.join(changed)}): choose another --out, or "
                "the same settings to go on with it."
            )
    elif (out / RESULTS).exists() or (out / SUMMARY).exists():
        raise ConfigError(f"{out} holds the results of an evaluation: choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        partial = file.with_suffix(".part")
        partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        partial.replace(file)


def chunks(samples: Iterable[Sample], seconds: float) -> Iterator[Iterator[Sample]]:
    """Consecutive samples, cut after the one with which they reach so many seconds of audio.

    Each chunk must be used up before the next is asked for.
    """
    rest = iter(samples)
    for first in rest:
        yield _chunk(chain((first,), rest), seconds)


def _chunk(samples: Iterator[Sample], seconds: float) -> Iterator[Sample]:
    done = 0.0
    for sample in samples:
        done += sample.item.seconds if isinstance(sample.item, Utterance) else 0.0
        yield sample
        if done >= seconds:
            return


def whole_chunks(path: Path, seconds: float, complete: bool) -> list[Record]:
    """The records of a results file that need not be made again; the rest is cut off the file.

    Args:
        seconds: of audio in a chunk.
        complete: whether the evaluation came to its end, so that every line counts.
    """
    if not path.is_file():
        return []
    records: list[Record] = []
    good, size = 0, 0  # records in whole chunks, and the bytes of these
    done, at, part = 0.0, 0, None
    with path.open("rb") as lines:
        for line in lines:
            record = parse_record(line) if line.endswith(b"\n") else None
            if record is None:
                break
            if (record.model, record.set) != part:  # the set before this one was read to its end
                good, size = len(records), at
                done, part = 0.0, (record.model, record.set)
            records.append(record)
            at += len(line)
            done += record.duration
            if done >= seconds or complete:
                good, size, done = len(records), at, 0.0
    with path.open("rb+") as file:
        file.truncate(size)
    return records[:good]


def fingerprint(path: Path) -> str | None:
    """A short name for the state of a file or a folder's files: names, sizes, times of change.

    None where there is no such path: a name, or an id of the hub.
    """
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    state = hashlib.blake2b(digest_size=8)
    for file in files:
        about = file.stat()
        state.update(f"{file.relative_to(path)}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return state.hexdigest()


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
