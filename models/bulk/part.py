"""Scoring of one part of the images of a bulk job.

Images are decoded ahead, in a thread beside the model.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from models.bulk.table import PartSummary, write_part
from models.datasets.image_source import ImageSource
from models.prefetch import prefetch
from models.score_rows.judged_rows import batches_of, judged_rows
from models.score_rows.row import Row

if TYPE_CHECKING:
    from models.scorer import Scorer

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

    The file is written atomically, after the last image.

    Args:
        scorer: The model.
        source: The images.
        start: The first image.
        stop: The image after the last.
        path: The file to write.
        alpha: The false-alarm rate of the verdicts; None for the default.
        should_stop: Called before every batch of 64 images; scoring stops where it returns true.
        progress: Called with the number of images of every batch.

    Raises:
        Stopped: ``should_stop`` returned true.
        AlphaUnattainable: The calibration has too few images for ``alpha``.
    """
    rows: list[Row] = []
    images = batches_of(source.read(start, stop))
    # Large images are not decoded ahead: the memory is that of one batch.
    with closing(images if scorer.preprocessing.tiled else prefetch(images, AHEAD)) as batches:
        while True:
            if should_stop():
                raise Stopped("scoring was stopped")
            batch = next(batches, None)
            if batch is None:
                break
            rows += judged_rows(scorer, batch, alpha)
            progress(len(batch))
    return write_part(rows, path)
