"""The table of scores: its columns, the row of an image, and parts of the table as Parquet files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from models.anomaly.conformal import DIGITS
from models.atomic_files import write_atomically

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("log_likelihood", pa.float64()),  # nats; metadata "snf.kind": a density of pixels or of features
        pa.field("bits_per_dim", pa.float64()),  # null for a density of features
        pa.field("p_value", pa.float64()),
        pa.field("score", pa.float64()),  # -log10 of the p-value
        pa.field("statistic", pa.float64()),  # nats; orders images that share a p-value
        pa.field("is_anomaly", pa.bool_()),
        pa.field("reason", pa.string()),  # the strongest reason, in words
        pa.field("reasons", pa.list_(pa.string())),  # up to three, the strongest first
        pa.field("box", pa.list_(pa.int32())),  # of the strongest reason that has one, in pixels of the upright file
        pa.field("warning", pa.string()),
        pa.field("error", pa.string()),  # a slug, null for an image with a score
        pa.field("error_detail", pa.string()),
        pa.field("model", pa.string()),  # name:version
        pa.field("calibration", pa.int32()),
        pa.field("alpha", pa.float64()),
        pa.field("dataset", pa.string()),  # null for image files
    ]
)
COMPRESSION = "zstd"
FILES = "files"
"""Label of images that are files and no dataset, in the metadata of a table."""
Row = dict[str, Any]
"""The values of one image by column; missing values are null."""


@dataclass(frozen=True)
class PartSummary:
    """Counts of one Parquet file of scores: its images, those that could not be scored, and the anomalies."""

    images: int
    errors: int
    anomalies: int

    def __add__(self, other: PartSummary) -> PartSummary:
        """Return the counts of both together."""
        return PartSummary(self.images + other.images, self.errors + other.errors, self.anomalies + other.anomalies)


class ReasonText(Protocol):
    """Protocol of a reason of a verdict: its text, and its box in pixels of the upright file."""

    @property
    def text(self) -> str:
        """The reason in words."""
        ...

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """Left, top, right and bottom of the region; None where there is none."""
        ...


class JudgedValues(Protocol):
    """Protocol of a verdict, of this process or of the answer of a service."""

    @property
    def p_value(self) -> float:
        """The conformal p-value."""
        ...

    @property
    def score(self) -> float:
        """-log10 of the p-value."""
        ...

    @property
    def statistic(self) -> float:
        """The statistic that the p-value is the rank of, in nats."""
        ...

    @property
    def is_anomaly(self) -> bool:
        """Whether the image is flagged."""
        ...

    @property
    def reasons(self) -> Sequence[ReasonText] | None:
        """The reasons, the strongest first."""
        ...


def row_of(
    path: str, log_likelihood: float, bits_per_dim: float | None, verdict: JudgedValues, warning: str | None
) -> Row:
    """Return the row of an image that was judged.

    Args:
        path: Name of the image.
        log_likelihood: Its log-likelihood in nats.
        bits_per_dim: The same in bits for each value; None for a density of features.
        verdict: Its verdict, with boxes in pixels of the upright file.
        warning: What was done to the file, and how it differs from the training images; None if there is nothing.
    """
    reasons = verdict.reasons or ()
    return {
        "path": path,
        "log_likelihood": log_likelihood,
        "bits_per_dim": bits_per_dim,
        "p_value": verdict.p_value,
        "score": verdict.score,
        # The last digits depend on the images that were judged at once.
        "statistic": round(verdict.statistic, DIGITS),
        "is_anomaly": verdict.is_anomaly,
        "reason": reasons[0].text if reasons else None,
        "reasons": [reason.text for reason in reasons],
        "box": next((reason.box for reason in reasons if reason.box is not None), None),
        "warning": warning,
    }


def failed_row(path: str, error: str, detail: str) -> Row:
    """Return the row of an image that could not be judged, with the slug and the text of its error."""
    return {"path": path, "error": error, "error_detail": detail}


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Return rows of scores as an Arrow table with the columns of ``SCHEMA``."""
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def labelled(table: pa.Table, metadata: Mapping[str, str]) -> pa.Table:
    """Return a table with the model, the calibration, the false-alarm rate and the dataset in each row."""
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
    """Return a table of scores as a Parquet file, with key-value metadata. Equal rows give equal bytes."""
    buffer = pa.BufferOutputStream()
    parquet.write_table(table.replace_schema_metadata(metadata), buffer, compression=COMPRESSION)
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def write_part(rows: Sequence[Row], path: Path) -> PartSummary:
    """Write rows of scores, one per image, to a Parquet file; return the numbers of images, errors and anomalies.

    Equal rows give equal bytes.
    """
    return write_table(table_of(rows), path)


def write_table(table: pa.Table, path: Path) -> PartSummary:
    """Write a table of scores to a Parquet file; return the numbers of images, errors and anomalies."""
    write_atomically(path, part_bytes(table))
    return summary_of(table)


def read_summary(path: Path) -> PartSummary:
    """Return the numbers of images, of images with an error and of anomalies in a Parquet file of scores."""
    summary = PartSummary(0, 0, 0)
    with parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            summary += summary_of(file.read_row_group(group, columns=["is_anomaly", "error"]))
    return summary


def read_warnings(path: Path) -> list[tuple[str, str]]:
    """Return the name and the warning of each image in a Parquet file of scores that has one."""
    table = parquet.read_table(path, columns=["path", "warning"])
    table = table.filter(pc.is_valid(table["warning"]))
    return list(zip(table["path"].to_pylist(), table["warning"].to_pylist(), strict=True))


def summary_of(table: Any) -> PartSummary:
    """Return the numbers of images, of images with an error and of anomalies in an Arrow table of scores."""
    errors = table.num_rows - table["error"].null_count
    return PartSummary(table.num_rows, errors, pc.sum(table["is_anomaly"], min_count=0).as_py())
