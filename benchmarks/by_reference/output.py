"""What the output of a bulk scoring holds: its rows, and how fast its parts came."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from pyarrow import parquet

NAME = re.compile(r"(\d{8})\.png$")


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


def images_per_second(folder: Path, processes: int) -> float:
    """Return the rate of an undisturbed scoring between the first part of each process and the last part of all.

    So it does not count the start of the processes.
    """
    ends = sorted((path.stat().st_mtime, parquet.read_metadata(path).num_rows) for path in parts(folder))
    begin, counted = ends[processes - 1][0], ends[processes:]
    return float(sum(rows for _, rows in counted) / (ends[-1][0] - begin))


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
