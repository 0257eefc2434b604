"""Rows of parquet and arrow files, from a given one on, with only the columns that are used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tiny_audio.data.remote import CORRUPT, ShardError

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 64  # that are decoded together
_ARROW_FILE = b"ARROW1"


def table_columns(file: BinaryIO, kind: str) -> list[str]:
    """Names of the columns."""
    import pyarrow.parquet as pq

    schema = pq.read_schema(file) if kind == "parquet" else _arrow(file).schema
    return list(schema.names)


def table_length(path: Path) -> int:
    """Rows of a parquet file, by its end."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def arrow_error() -> type[Exception]:
    """The base of what pyarrow raises for a damaged file, beside OSError and ValueError."""
    import pyarrow as pa

    base: type[Exception] = pa.ArrowException
    return base


def table_rows(
    file: BinaryIO, kind: str, columns: Sequence[str], start: int
) -> Iterator[dict[str, Any]]:
    """Rows from `start` on; parquet is not read before the row group that holds it.

    Raises ShardError for a missing column, and what pyarrow raises for a file that is none.
    """
    if kind == "parquet":
        import pyarrow.parquet as pq

        parquet = pq.ParquetFile(file, pre_buffer=False)
        _check(parquet.schema_arrow.names, columns)
        groups = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
        first = 0
        while first < len(groups) and start >= groups[first]:
            start -= groups[first]
            first += 1
        wanted = list(range(first, len(groups)))
        batches = parquet.iter_batches(_ROWS, row_groups=wanted, columns=list(columns))
    else:
        reader = _arrow(file)
        _check(reader.schema.names, columns)
        batches = (batch.select(list(columns)) for batch in _batches(reader))
    for batch in batches:
        if start < len(batch):
            for offset in range(start, len(batch), _ROWS):
                yield from batch.slice(offset, _ROWS).to_pylist()
        start = max(0, start - len(batch))


def _check(found: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ShardError(f"no column {missing[0]!r}, but {', '.join(found)}", CORRUPT)


def _arrow(file: BinaryIO) -> Any:
    """A reader of the file format, or of the stream format that `datasets` writes."""
    import pyarrow as pa

    is_file = file.read(len(_ARROW_FILE)) == _ARROW_FILE
    file.seek(0)
    return pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if hasattr(reader, "num_record_batches"):
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
        return
    yield from reader
