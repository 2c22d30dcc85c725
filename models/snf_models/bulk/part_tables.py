"""Tables of scores as Parquet files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import IOBase
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from snf_models.bulk.completion import DamagedPart
from snf_models.disk import write_atomically
from snf_models.score_rows.row import SCHEMA, Row

COMPRESSION = "zstd"
FILES = "files"
"""Label of images that are files and no dataset, in the metadata of a table."""


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


def part_bytes(table: pa.Table, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a Parquet file; equal rows and equal metadata give equal bytes."""
    buffer = pa.BufferOutputStream()
    parquet.write_table(table.replace_schema_metadata(metadata), buffer, compression=COMPRESSION)
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def write_part(rows: Sequence[Row], path: Path) -> PartSummary:
    """Write a Parquet file; equal rows give equal bytes."""
    return write_table(table_of(rows), path)


def write_table(table: pa.Table, path: Path) -> PartSummary:
    write_atomically(path, part_bytes(table))
    return summary_of(table)


def is_damage(error: Exception) -> bool:
    """Return whether the file is damaged or missing. Errors of the disk have a number, and are no damage."""
    if isinstance(error, OSError):
        return error.errno in (None, errno.ENOENT)
    return not isinstance(error, MemoryError | pa.ArrowCancelled)


@contextmanager
def open_table(file: Path | BinaryIO | IOBase) -> Iterator[parquet.ParquetFile]:
    """Open a Parquet file by path or file object. pyarrow itself takes no path that is not valid UTF-8."""
    content = pa.OSFile(os.fsencode(file)) if isinstance(file, Path) else nullcontext(file)
    with content as opened, parquet.ParquetFile(opened) as table:
        yield table


def read_footer(file: Path | IOBase, label: str, rows: int) -> parquet.FileMetaData:
    """Return the metadata at the end; raise ``DamagedPart`` for a damaged file or another number of rows."""
    try:
        with open_table(file) as opened:
            footer = opened.metadata
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        raise DamagedPart(f"{label} is missing or damaged ({error})") from error
    if footer.num_rows != rows:
        raise DamagedPart(f"{label} holds {footer.num_rows} rows, expected {rows}")
    return footer


def read_summary(path: Path) -> PartSummary:
    summary = PartSummary(0, 0, 0)
    with open_table(path) as file:
        for group in range(file.num_row_groups):
            summary += summary_of(file.read_row_group(group, columns=["is_anomaly", "error"]))
    return summary


def read_warnings(path: Path) -> list[tuple[str, str]]:
    """Return ``(image path, warning)`` for each warning."""
    with open_table(path) as file:
        table = file.read(["path", "warning"])
    table = table.filter(pc.is_valid(table["warning"]))
    return list(zip(table["path"].to_pylist(), table["warning"].to_pylist(), strict=True))


def summary_of(table: Any) -> PartSummary:
    errors = table.num_rows - table["error"].null_count
    return PartSummary(table.num_rows, errors, pc.sum(table["is_anomaly"], min_count=0).as_py())
