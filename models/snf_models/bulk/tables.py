"""Tables of scores as Parquet, CSV or JSON lines: writing, joining and conversion."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import IOBase
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from snf_models.bulk.plan import FILES
from snf_models.disk import new_file
from snf_models.errors import OutputTaken
from snf_models.score_rows import SCHEMA, Row

COMPRESSION = "zstd"
GROUP_ROWS = 100_000
"""Rows of a row group, which a reader holds in memory at once."""

ENCODE = json.JSONEncoder(ensure_ascii=False).encode
"""Function that returns a value as JSON; ``json.dumps`` would make an encoder for every value."""

Tables: TypeAlias = Iterable[Any]
"""Arrow tables with the columns of ``SCHEMA``, one after the other."""


class DamagedPart(Exception):
    """The result file of a part is missing, damaged or from another scoring."""


@dataclass(frozen=True)
class PartSummary:
    images: int
    errors: int  # images that could not be scored
    anomalies: int

    def __add__(self, other: PartSummary) -> PartSummary:
        return PartSummary(self.images + other.images, self.errors + other.errors, self.anomalies + other.anomalies)


def table_of(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def labelled(table: pa.Table, metadata: Mapping[str, str]) -> pa.Table:
    """Fill in the constant columns, such as the model, from ``metadata``."""
    dataset = metadata.get("snf.dataset")
    labels: dict[str, Any] = {
        "model": metadata.get("snf.model"),
        "calibration": int(metadata["snf.calibration"]) if "snf.calibration" in metadata else None,
        "alpha": float(metadata["snf.alpha"]) if "snf.alpha" in metadata else None,
        "dataset": None if dataset == FILES else dataset,
    }
    for name, value in labels.items():
        field = SCHEMA.field(name)
        column = pa.repeat(pa.scalar(value, field.type), table.num_rows)
        table = table.set_column(SCHEMA.get_field_index(name), field, column)
    return table


def part_bytes(table: pa.Table, metadata: Mapping[str, str]) -> bytes:
    """Return a Parquet file; equal rows and equal metadata give equal bytes."""
    buffer = pa.BufferOutputStream()
    parquet.write_table(table.replace_schema_metadata(metadata), buffer, compression=COMPRESSION)
    content: bytes = buffer.getvalue().to_pybytes()
    return content


@contextmanager
def open_table(file: Path | BinaryIO | IOBase) -> Iterator[parquet.ParquetFile]:
    """Open a Parquet file by path or file object; raise ``DamagedPart``, also in the block."""
    # pyarrow itself takes no path that is not valid UTF-8.
    try:
        content = pa.OSFile(os.fsencode(file)) if isinstance(file, Path) else nullcontext(file)
        with content as opened, parquet.ParquetFile(opened) as table:
            yield table
    except (pa.ArrowException, OSError) as error:
        # Errors of the disk have a number; they and a lack of memory are no damage.
        disk = isinstance(error, OSError) and error.errno not in (None, errno.ENOENT)
        if disk or isinstance(error, MemoryError | pa.ArrowCancelled):
            raise
        raise DamagedPart(f"is missing or damaged ({error})") from error


def read_summary(path: Path) -> PartSummary:
    summary = PartSummary(0, 0, 0)
    with open_table(path) as file:
        for group in range(file.num_row_groups):
            summary += summary_of(file.read_row_group(group, columns=["is_anomaly", "error"]))
    return summary


def read_warnings(file: Path | BinaryIO) -> list[tuple[str, str]]:
    """Return ``(image path, warning)`` for each warning."""
    with open_table(file) as opened:
        table = opened.read(["path", "warning"])
    table = table.filter(pc.is_valid(table["warning"]))
    return list(zip(table["path"].to_pylist(), table["warning"].to_pylist(), strict=True))


def summary_of(table: Any) -> PartSummary:
    errors = table.num_rows - table["error"].null_count
    return PartSummary(table.num_rows, errors, pc.sum(table["is_anomaly"], min_count=0).as_py())


def merge_parts(
    parts: Iterable[Path | BinaryIO], path: Path, metadata: Mapping[str, str], expected: PartSummary | None = None
) -> PartSummary:
    """Join the parts into one file; raise ``DamagedPart``, or ``OutputTaken`` if the counts are not ``expected``."""
    summary = PartSummary(0, 0, 0)

    def tables() -> Iterator[Any]:
        nonlocal summary
        for table in _row_groups(parts):
            summary += summary_of(table)
            yield labelled(table, metadata)

    with new_file(path) as file:
        WRITERS[path.suffix](tables(), file, metadata)
        if expected not in (None, summary):
            raise OutputTaken(f"the parts have {summary}, expected {expected}")
    return summary


def convert_table(table: Path, path: Path) -> None:
    """Convert a Parquet file, also of an earlier version, whose missing columns are null."""
    with open_table(table) as file:
        stored = file.schema_arrow.metadata or {}
    merge_parts([table], path, {key.decode(): value.decode() for key, value in stored.items()})


def _row_groups(parts: Iterable[Path | BinaryIO]) -> Iterator[Any]:
    held = SCHEMA.empty_table()
    for part in parts:
        with open_table(part) as file:
            for group in range(file.num_row_groups):
                # A part that an earlier version wrote lacks the newer columns.
                held = pa.concat_tables([held, file.read_row_group(group)], promote_options="default")
                while held.num_rows >= GROUP_ROWS:
                    yield held.slice(0, GROUP_ROWS).combine_chunks()
                    held = held.slice(GROUP_ROWS)
    if held.num_rows:
        yield held.combine_chunks()


def _write_parquet(tables: Tables, file: BinaryIO, metadata: Mapping[str, str]) -> None:
    schema = SCHEMA.with_metadata(dict(metadata))
    with parquet.ParquetWriter(file, schema, compression=COMPRESSION) as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=GROUP_ROWS)


def _write_csv(tables: Tables, file: BinaryIO, _metadata: Mapping[str, str]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(_Lines(text))
    writer.writerow(SCHEMA.names)
    for table in tables:
        writer.writerows(map(_cell, row.values()) for row in table.to_pylist())
    text.detach()


class _Lines:
    """Text file with rows that end with a newline; the ``csv`` writer uses CR LF, so that it quotes names with a CR."""

    def __init__(self, text: TextIO) -> None:
        self._text = text

    def write(self, row: str) -> None:
        self._text.write(row.removesuffix("\r\n") + "\n")


def _cell(value: Any) -> str:
    """Return a value as text: numbers, booleans and lists as JSON, so that numbers keep all digits; null as ''."""
    if value is None:
        return ""
    return value if isinstance(value, str) else ENCODE(value)


def _write_jsonl(tables: Tables, file: BinaryIO, _metadata: Mapping[str, str]) -> None:
    for table in tables:
        file.writelines(ENCODE(row).encode() + b"\n" for row in table.to_pylist())


WRITERS: dict[str, Callable[[Tables, BinaryIO, Mapping[str, str]], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
}
