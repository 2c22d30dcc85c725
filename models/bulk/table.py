"""Parts of a table of scores as Parquet files, and their counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from models.atomic_files import write_atomically
from models.score_rows.row import SCHEMA, Row

COMPRESSION = "zstd"


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
    return summary_of(table)


def read_summary(path: Path) -> PartSummary:
    """Return the numbers of images, of images with an error and of anomalies in a Parquet file of scores."""
    images = errors = anomalies = 0
    with parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            part = summary_of(file.read_row_group(group, columns=["is_anomaly", "error"]))
            images, errors, anomalies = images + part.images, errors + part.errors, anomalies + part.anomalies
    return PartSummary(images, errors, anomalies)


def read_warnings(path: Path) -> list[tuple[str, str]]:
    """Return the name and the warning of each image in a Parquet file of scores that has one."""
    table = parquet.read_table(path, columns=["path", "warning"])
    table = table.filter(pc.is_valid(table["warning"]))
    return list(zip(table["path"].to_pylist(), table["warning"].to_pylist(), strict=True))


def summary_of(table: Any) -> PartSummary:
    """Return the numbers of images, of images with an error and of anomalies in an Arrow table of scores."""
    errors = table.num_rows - table["error"].null_count
    return PartSummary(table.num_rows, errors, pc.sum(table["is_anomaly"], min_count=0).as_py())
