"""The Parquet table of scores: its columns, and how parts of it are written and merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from models.atomic_files import new_file, write_atomically

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("log_likelihood", pa.float64()),  # nats; metadata "snf.kind": a density of pixels or of features
        pa.field("bits_per_dim", pa.float64()),  # null for a density of features
        pa.field("p_value", pa.float64()),
        pa.field("score", pa.float64()),  # -log10 of the p-value
        pa.field("is_anomaly", pa.bool_()),
        pa.field("reason", pa.string()),  # the strongest reason, in words
        pa.field("box", pa.list_(pa.int32())),  # of the strongest reason that has one, in pixels of the upright file
        pa.field("warning", pa.string()),
        pa.field("error", pa.string()),  # a slug, null for an image with a score
        pa.field("error_detail", pa.string()),
    ]
)
COMPRESSION = "zstd"
GROUP_ROWS = 100_000
"""Rows of a row group, which a reader holds in memory at once."""

Row = dict[str, Any]
"""The values of one image by column; missing values are null."""


@dataclass(frozen=True)
class PartSummary:
    """Counts of one Parquet file of scores: its images, those that could not be scored, and the anomalies."""

    images: int
    errors: int
    anomalies: int


def write_part(rows: Sequence[Row], path: Path) -> PartSummary:
    """Write rows of scores, one per image, to a Parquet file; return the numbers of images, errors and anomalies.

    Equal rows give equal bytes.
    """
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    buffer = pa.BufferOutputStream()
    parquet.write_table(table, buffer, compression=COMPRESSION)
    write_atomically(path, buffer.getvalue().to_pybytes())
    return _summary(table)


def read_summary(path: Path) -> PartSummary:
    """Return the numbers of images, of images with an error and of anomalies in a Parquet file of scores."""
    images = errors = anomalies = 0
    with parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            part = _summary(file.read_row_group(group, columns=["is_anomaly", "error"]))
            images, errors, anomalies = images + part.images, errors + part.errors, anomalies + part.anomalies
    return PartSummary(images, errors, anomalies)


def merge_parts(parts: Sequence[Path], path: Path, metadata: Mapping[str, str]) -> PartSummary:
    """Join Parquet files of scores, in order, into one with ``metadata``; return its counts of errors and anomalies.

    The file is written atomically, one row group in memory at a time. It does not depend on the division into parts.
    """
    schema = SCHEMA.with_metadata(dict(metadata))
    images = errors = anomalies = 0
    with new_file(path) as file, parquet.ParquetWriter(file, schema, compression=COMPRESSION) as writer:
        for table in _row_groups(parts):
            writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=GROUP_ROWS)
            part = _summary(table)
            images, errors, anomalies = images + part.images, errors + part.errors, anomalies + part.anomalies
    return PartSummary(images, errors, anomalies)


def _row_groups(parts: Sequence[Path]) -> Iterator[Any]:
    held = SCHEMA.empty_table()
    for part in parts:
        with parquet.ParquetFile(part) as file:
            # A part that an earlier version wrote lacks the newer columns.
            held = pa.concat_tables([held, file.read()], promote_options="default")
        while held.num_rows >= GROUP_ROWS:
            yield held.slice(0, GROUP_ROWS).combine_chunks()
            held = held.slice(GROUP_ROWS)
    if held.num_rows:
        yield held.combine_chunks()


def _summary(table: Any) -> PartSummary:
    errors = table.num_rows - table["error"].null_count
    return PartSummary(table.num_rows, errors, pc.sum(table["is_anomaly"], min_count=0).as_py())
