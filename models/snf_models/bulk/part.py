"""Scoring of one part, with images decoded ahead in a thread beside the model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from snf_models.bulk.part_tables import PartSummary, table_of, write_table
from snf_models.datasets.image_source import ImageSource
from snf_models.errors import PartFailed
from snf_models.score_rows.judged_rows import batches_of, judged_rows
from snf_models.score_rows.row import SCHEMA
from snf_models.threads import prefetch

if TYPE_CHECKING:
    from snf_models.scorer import Scorer

AHEAD = 2
"""Batches that are decoded ahead."""


class Stopped(Exception):
    """A bulk scoring was stopped on request; complete parts are kept."""


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
    """Score ``start`` to ``stop - 1`` and write them after the last image; raise as :func:`score_range`."""
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
    """Score a range; raise ``Stopped``, ``AlphaUnattainable``, or ``PartFailed`` for another number of images."""
    tables = [SCHEMA.empty_table()]
    images = batches_of(source.read(start, stop))
    # Large images are not decoded ahead: the memory is that of one batch.
    with closing(images if scorer.preprocessing.tiled else prefetch(images, AHEAD)) as batches:
        while True:
            if should_stop():
                raise Stopped("scoring was stopped")
            batch = next(batches, None)
            if batch is None:
                break
            # As a table at once: the rows of a large part would take ten times its memory.
            tables.append(table_of(judged_rows(scorer, batch, alpha)))
            progress(len(batch))
    table = pa.concat_tables(tables).combine_chunks()
    if table.num_rows != stop - start:
        raise PartFailed(f"expected images {start} to {stop - 1}, got {table.num_rows} images")
    return table
