"""Report on the images of a dataset: sizes, colours, duplicates, groups and what was left out."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from snf_client.schemas.datasets import DatasetReport, Duplicates, ImageFacts, SizeCount, Split
from snf_models.datasets.upload_items import LISTED, Findings
from snf_runtime.images.preprocessing import GREY_MODES

NearDuplicates = Literal["keep", "drop"]
DISTANCE = 3
BANDS = (13, 13, 13, 13, 12)
"""Bits of the five parts of a hash. Two hashes that differ in 3 bits have at least two equal parts."""
MAX_NEIGHBOURS = 512  # most neighbours with which a hash is compared, among those that share two parts with it


class KeptHashes:
    def __init__(self) -> None:
        self._hashes = np.empty(1024, dtype=np.uint64)
        self._paths: list[str] = []

    def twin(self, dhash: int) -> str | None:
        """Return the path of the first kept image whose hash differs in at most 3 bits, or None.

        >>> kept = KeptHashes()
        >>> kept.add(0b0, "a.png")
        >>> kept.twin(0b111), kept.twin(0b1111)
        ('a.png', None)
        """
        distances = np.bitwise_count(self._hashes[: len(self._paths)] ^ np.uint64(dhash))
        near = np.flatnonzero(distances <= DISTANCE)
        return self._paths[near[0]] if len(near) else None

    def add(self, dhash: int, path: str) -> None:
        if len(self._paths) == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
        self._hashes[len(self._paths)] = dhash
        self._paths.append(path)


def near_pairs(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return index pairs, ``(pairs, 2)``, of hashes that differ in at most 3 bits, in O(N log N) for spread ones.

    >>> near_pairs(np.array([0b0, 0b111, 0b1111], dtype=np.uint64)).tolist()
    [[0, 1], [1, 2]]
    """
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for mask in _masks():
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        keys, sorted_hashes = keys[order], hashes[order]
        left = np.arange(len(hashes))
        for offset in range(1, MAX_NEIGHBOURS + 1):
            left = left[left + offset < len(hashes)]
            left = left[keys[left] == keys[left + offset]]
            if not len(left):
                break
            near = left[np.bitwise_count(sorted_hashes[left] ^ sorted_hashes[left + offset]) <= DISTANCE]
            pairs.append(np.sort(np.stack([order[near], order[near + offset]], axis=1), axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def _masks() -> list[np.uint64]:
    ends = np.cumsum(BANDS)
    parts = [((1 << int(size)) - 1) << int(end - size) for size, end in zip(BANDS, ends, strict=True)]
    return [np.uint64(first | second) for first, second in combinations(parts, 2)]


EXAMPLES = 20


def make_report(name: str, index: sqlite3.Connection, findings: Findings, split: Split) -> DatasetReport:
    count, total, coloured, smallest_w, smallest_h, largest_w, largest_h = index.execute(
        "SELECT count(*), sum(bytes), sum(NOT grey), min(width), min(height), max(width), max(height) FROM images"
    ).fetchone()
    (median,) = index.execute(
        "SELECT min(width, height) FROM images ORDER BY 1 LIMIT 1 OFFSET ?", ((count - 1) // 2,)
    ).fetchone()
    # A file without colour channels must be converted to serve as colour.
    modes = _histogram(index, "mode")
    grey_files = sum(count for mode, count in modes.items() if mode in GREY_MODES)
    facts = ImageFacts(
        smallest=(smallest_w, smallest_h),
        largest=(largest_w, largest_h),
        median_shorter_side=median,
        coloured=coloured > 0,
        channels=1 if coloured == 0 else 3 if grey_files == 0 else None,
    )
    sizes = index.execute(
        f"SELECT width, height, count(*) FROM images GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT {LISTED}"  # noqa: S608
    )
    near = _near(index)
    return DatasetReport(
        name=name,
        created=datetime.now(UTC).replace(microsecond=0),
        images=count,
        bytes=total,
        rejected=findings.slugs.total(),
        rejected_files=findings.files,
        rejected_by=dict(sorted(findings.slugs.items())),
        ignored=findings.ignored,
        formats=_histogram(index, "format"),
        modes=modes,
        coloured=coloured,
        sizes=[SizeCount(width=width, height=height, images=images) for width, height, images in sizes],
        different_sizes=_distinct(index, "width * 65536 + height"),
        facts=facts,
        duplicates=_exact(index),
        near_duplicates=near,
        groups=_histogram(index, '"group"'),
        different_groups=_distinct(index, '"group"'),
        split=split,
        notes=_notes(count, split, findings, facts, modes, near),
    )


def _notes(
    count: int, split: Split, findings: Findings, facts: ImageFacts, modes: dict[str, int], near: Duplicates
) -> list[str]:
    notes = [f"split {split.rule.replace('-', ' ')} as {split.parts}: {split.reason}"]
    if split.folds:
        notes.append(
            f"{count} images are few: p-values of pixel models rest on {split.statistics} of them, by "
            f"{len(split.folds)}-fold cross-conformal prediction, and none is below {1 / (split.statistics + 1):.2g}; "
            f"those of snf-features rest on all"
        )
    if facts.smallest != facts.largest:
        notes.append("sizes differ: unless a fit is set, training resizes images and crops them to their middle")
    if facts.channels is None:
        notes.append(
            "some images are grey and some have colour: unless a colour is set, training converts all to colour"
        )
    if "I;16" in modes:
        notes.append(
            f"{modes['I;16']} images have 16 bits: every 256 grey levels become one, unless the option levels of a "
            "training says how many levels the camera has, such as 4096"
        )
    if near.images:
        pairs = "1 pair" if near.sets == 1 else f"{near.sets} pairs"
        notes.append(
            f"near duplicates: {near.images} images in {pairs}, as is usual for parts that look alike; where they show "
            "the same part, an upload can leave out all but the first"
        )
    if findings.ignored:
        skipped = "1 file was" if findings.ignored == 1 else f"{findings.ignored} files were"
        notes.append(f"{skipped} skipped, as hidden files, files of systems and texts such as .txt and .json are")
    if findings.slugs:
        left_out = findings.slugs.total()
        notes.append("1 file was left out" if left_out == 1 else f"{left_out} files were left out")
    return notes


def _histogram(index: sqlite3.Connection, column: str) -> dict[str, int]:
    rows = index.execute(
        f"SELECT {column}, count(*) FROM images GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {LISTED}"  # noqa: S608
    )
    return dict(rows.fetchall())


def _distinct(index: sqlite3.Connection, expression: str) -> int:
    count: int = index.execute(f"SELECT count(DISTINCT {expression}) FROM images").fetchone()[0]  # noqa: S608
    return count


def _exact(index: sqlite3.Connection) -> Duplicates:
    repeated = "SELECT digest, count(*) AS n FROM images GROUP BY digest HAVING n > 1"
    sets, images = index.execute(f"SELECT count(*), total(n) FROM ({repeated})").fetchone()  # noqa: S608
    largest = index.execute(f"{repeated} ORDER BY n DESC, min(path) LIMIT {EXAMPLES}").fetchall()
    examples = [
        [
            path
            for (path,) in index.execute(
                "SELECT path FROM images WHERE digest = ? ORDER BY path LIMIT ?", (digest, EXAMPLES)
            )
        ]
        for digest, _ in largest
    ]
    return Duplicates(images=int(images), sets=sets, examples=examples)


def _near(index: sqlite3.Connection) -> Duplicates:
    # One row for each hash: different pixels with the same hash are near duplicates, too.
    rows = index.execute(
        "SELECT dhash, count(DISTINCT digest), count(*), min(path), max(path) FROM images GROUP BY dhash ORDER BY dhash"
    ).fetchall()
    hashes = np.array([row[0] + 2**63 for row in rows], dtype=np.uint64)
    pairs = near_pairs(hashes)
    crowded = [place for place, row in enumerate(rows) if row[1] > 1]
    near = np.union1d(pairs.ravel(), np.array(crowded, dtype=np.int64))
    examples = [[rows[place][3], rows[place][4]] for place in crowded[:EXAMPLES]]
    examples += [[rows[left][3], rows[right][3]] for left, right in pairs[: EXAMPLES - len(examples)]]
    return Duplicates(images=sum(rows[place][2] for place in near), sets=len(pairs) + len(crowded), examples=examples)
