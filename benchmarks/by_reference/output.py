"""What the output of a bulk scoring holds: its rows, and how fast its parts came."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

NAME = re.compile(r"(\d{8})\.png$")
VALUES = ("log_likelihood", "statistic", "p_value", "is_anomaly")
"""Columns that an undisturbed scoring has alike."""


def parts(folder: Path) -> list[Path]:
    """Return the Parquet files of an output on this machine, in order."""
    return sorted(folder.glob("part-*.parquet"))


def lost_and_doubled(folder: Path, images: int) -> tuple[int, int]:
    """Return how many synthetic images have no row with a score, and how many rows are too many."""
    rows: Counter[int] = Counter()
    for path in parts(folder):
        table = parquet.ParquetFile(path).read(columns=["path", "log_likelihood"])
        for name, score in zip(table["path"].to_pylist(), table["log_likelihood"].to_pylist(), strict=True):
            match = NAME.search(name)
            if match and score is not None:
                rows[int(match[1])] += 1
    return images - len(rows.keys() & range(images)), rows.total() - len(rows)


def values(folder: Path, images: int) -> NDArray[np.float64]:
    """Return the columns ``VALUES`` of the synthetic images, float64 ``(images, columns)``; NaN without a row."""
    found = np.full((images, len(VALUES)), np.nan)
    for path in parts(folder):
        table = parquet.ParquetFile(path).read(columns=["path", *VALUES])
        matches = [NAME.search(name) for name in table["path"].to_pylist()]
        numbers = [int(match[1]) if match else -1 for match in matches]
        known = np.array([0 <= number < images for number in numbers])
        rows = np.stack([table[name].cast(pa.float64()).to_numpy() for name in VALUES], axis=1)
        found[np.array(numbers)[known]] = rows[known]
    return found


def different(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> int:
    """Return how many rows are not equal to the bit."""
    return int((ours.view(np.uint64) != theirs.view(np.uint64)).any(axis=1).sum())


def images_per_second(folder: Path, processes: int) -> float:
    """Return the rate of an undisturbed scoring, from a moment when a part ended to another one.

    Each process has a part to start, and the rate ends before the first process finds no part left. Between the two
    moments each process ends as many parts as the others. So what the others hold of their parts is about the same at
    both, and is not counted.

    Raises:
        ValueError: There are too few parts.
    """
    ends = sorted((path.stat().st_mtime, parquet.read_metadata(path).num_rows) for path in parts(folder))
    last = len(ends) - processes
    first = processes + last % processes
    if last <= first:
        raise ValueError(f"expected over {3 * processes} parts in {folder}, got {len(ends)}")
    return float(sum(rows for _, rows in ends[first + 1 : last + 1]) / (ends[last][0] - ends[first][0]))


def scores(folder: Path) -> dict[str, float | None]:
    """Return the log-likelihood of each image by its name."""
    found: dict[str, float | None] = {}
    for path in parts(folder):
        table = parquet.ParquetFile(path).read(columns=["path", "log_likelihood"])
        found |= zip(table["path"].to_pylist(), table["log_likelihood"].to_pylist(), strict=True)
    return found


def size_of(folder: Path) -> int:
    """Return the bytes of all parts."""
    return sum(path.stat().st_size for path in parts(folder))
