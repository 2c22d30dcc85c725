"""Scoring of one part of the images of a bulk job.

Images are decoded ahead, in a thread beside the model.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from models.bulk.table import SCHEMA, PartSummary, Row, failed_row, row_of, table_of, write_table
from models.datasets.image_source import ImageSource, NamedImage
from models.errors import ImageError, ScoreNotFinite
from models.images.batch import batch_of, in_batches
from models.images.codec import DecodedImage
from models.images.placement import FilePlacement
from models.images.provenance import remark
from models.prefetch import prefetch

if TYPE_CHECKING:
    from models.anomaly.judged import JudgedImage
    from models.scorer import Scorer

BATCH = 64
BATCH_BYTES = 64 * 2**20
"""Most bytes of a batch of several images."""
AHEAD = 2
"""Batches that are decoded ahead."""


class Stopped(Exception):
    """Raised to end bulk scoring on request; the Parquet files of scores that are complete are kept."""


def score_part(
    scorer: Scorer,
    source: ImageSource,
    start: int,
    stop: int,
    path: Path,
    *,
    alpha: float | None,
    should_stop: Callable[[], bool],
    progress: Callable[[int], None] = lambda _images: None,
) -> PartSummary:
    """Score images ``start`` to ``stop - 1`` into a Parquet file, one row each; return counts of errors and anomalies.

    The file is written atomically, after the last image. Arguments and errors are those of :func:`score_range`.
    """
    table = score_range(scorer, source, start, stop, alpha=alpha, should_stop=should_stop, progress=progress)
    return write_table(table, path)


def score_range(
    scorer: Scorer,
    source: ImageSource,
    start: int,
    stop: int,
    *,
    alpha: float | None,
    should_stop: Callable[[], bool],
    progress: Callable[[int], None] = lambda _images: None,
) -> pa.Table:
    """Score images ``start`` to ``stop - 1``; return the table of their scores, one row each.

    Args:
        scorer: The model.
        source: The images.
        start: The first image.
        stop: The image after the last.
        alpha: The false-alarm rate of the verdicts; None for the default.
        should_stop: Called before every batch of 64 images; scoring stops where it returns true.
        progress: Called with the number of images of every batch.

    Raises:
        Stopped: ``should_stop`` returned true.
        AlphaUnattainable: The calibration has too few images for ``alpha``.
    """
    tables = [SCHEMA.empty_table()]
    images = _batches(source.read(start, stop))
    # Large images are not decoded ahead: the memory is that of one batch.
    with closing(images if scorer.preprocessing.tiled else prefetch(images, AHEAD)) as batches:
        while True:
            if should_stop():
                raise Stopped("scoring was stopped")
            batch = next(batches, None)
            if batch is None:
                break
            # As a table at once: the rows of a large part would take ten times its memory.
            tables.append(table_of(_score(scorer, batch, alpha)))
            progress(len(batch))
    return pa.concat_tables(tables).combine_chunks()


def _batches(images: Iterator[NamedImage]) -> Generator[list[NamedImage]]:
    yield from in_batches(images, BATCH, BATCH_BYTES, _bytes)


def _bytes(named: NamedImage) -> int:
    _, image = named
    return image.pixels.nbytes if isinstance(image, DecodedImage) else 0


def _score(scorer: Scorer, batch: list[NamedImage], alpha: float | None) -> list[Row]:
    good = [image.pixels for _, image in batch if isinstance(image, DecodedImage)]
    judged = iter(scorer.judge_each(batch_of(good, scorer.preprocessing), alpha) if good else [])
    rows = []
    for path, image in batch:
        result = image if isinstance(image, ImageError) else next(judged)
        if isinstance(result, ImageError | ScoreNotFinite):
            rows.append(failed_row(path, result.slug, result.detail))
        else:
            assert isinstance(image, DecodedImage)
            rows.append(_row(scorer, path, image, result))
    return rows


def _row(scorer: Scorer, path: str, image: DecodedImage, judged: JudgedImage) -> Row:
    placement = FilePlacement.of(scorer.manifest.preprocessing, image.file_size)
    likelihood, verdict = judged.likelihood, judged.verdict.in_file(placement)
    note = remark(scorer.manifest.training.provenance, image)
    return row_of(path, likelihood.log_likelihood, likelihood.bits_per_dim, verdict, note)
