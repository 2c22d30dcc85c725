"""The group of every image: the folder it came in, or what its array said, so that lots can be kept together."""

from __future__ import annotations

import os.path
import sqlite3
from collections.abc import Sequence

from models.datasets.splits import split_images
from models.images.provenance import Split


def group_and_split(index: sqlite3.Connection) -> Split:
    """Fill the columns ``group``, ``part`` and ``fold`` of a dataset's table and return how it was shared out."""
    rows = index.execute('SELECT id, path, "group", digest FROM images ORDER BY path').fetchall()
    of_folders = folder_groups([path for _, path, _, _ in rows])
    groups = [folder if given is None else given for (_, _, given, _), folder in zip(rows, of_folders, strict=True)]
    shares = split_images(groups, [digest for *_, digest in rows])
    folds = (
        [None] * len(rows) if shares.fold is None else [fold if fold >= 0 else None for fold in shares.fold.tolist()]
    )
    index.executemany(
        'UPDATE images SET "group" = ?, part = ?, fold = ? WHERE id = ?',
        zip(groups, shares.part.tolist(), folds, (row[0] for row in rows), strict=True),
    )
    return shares.split


def folder_groups(paths: Sequence[str]) -> list[str]:
    """Return the first folder of every path below the folder that all of them have in common; ``""`` for none.

    >>> folder_groups(["solar/lot1/a.png", "solar/lot1/sub/b.png", "solar/lot2/a.png", "solar/c.png"])
    ['lot1', 'lot1', 'lot2', '']
    """
    folders = [path.rpartition("/")[0] for path in paths]
    common = os.path.commonpath(folders) if all(folders) else ""
    return [folder[len(common) :].lstrip("/").partition("/")[0] for folder in folders]
