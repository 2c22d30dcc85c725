"""Scoring of one part: decoding runs ahead in a thread of its own while the model works."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.bulk.sources import Found, ImageSource
from models.bulk.table import PartSummary, Row, write_part
from models.errors import ImageError, ModelsError, ScoreNotFinite
from models.images.codec import DecodedImage
from models.images.provenance import provenance_warning
from models.prefetch import ahead

if TYPE_CHECKING:
    from models.anomaly.judged import JudgedImage
    from models.scorer import Scorer

BATCH = 64
AHEAD = 2
"""Batches that are decoded before they are asked for."""


class Stopped(Exception):
    """Scoring was asked to stop; parts that are complete stay."""


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
    """Score images ``start`` to ``stop - 1`` and write one row each to the Parquet file ``path``, in their order.

    ``should_stop`` is asked before every batch of 64, ``progress`` told how many images a batch had. Nothing is written
    unless all is. Raises ``Stopped``, ``AlphaUnattainable``, and what the source raises when it goes away.
    """
    rows: list[Row] = []
    with closing(ahead(_batches(source.read(start, stop)), AHEAD)) as batches:
        while True:
            if should_stop():
                raise Stopped("scoring was stopped")
            batch = next(batches, None)
            if batch is None:
                break
            rows += _score(scorer, batch, alpha)
            progress(len(batch))
    return write_part(rows, path)


def _batches(images: Iterator[Found]) -> Generator[list[Found]]:
    while batch := list(islice(images, BATCH)):
        yield batch


def _score(scorer: Scorer, batch: list[Found], alpha: float | None) -> list[Row]:
    good = [image.pixels for _, image in batch if isinstance(image, DecodedImage)]
    judged = iter(scorer.judge_each(np.stack(good), alpha) if good else [])
    rows = []
    for path, image in batch:
        result = image if isinstance(image, ImageError) else next(judged)
        if isinstance(result, ImageError | ScoreNotFinite):
            rows.append(_failed(path, result))
        else:
            assert isinstance(image, DecodedImage)
            rows.append(_row(scorer, path, image, result))
    return rows


def _row(scorer: Scorer, path: str, image: DecodedImage, judged: JudgedImage) -> Row:
    likelihood, verdict = judged.likelihood, judged.verdict
    return {
        "path": path,
        "log_likelihood": likelihood.log_likelihood,
        "bits_per_dim": likelihood.bits_per_dim,
        "p_value": verdict.p_value,
        "score": verdict.score,
        "is_anomaly": verdict.is_anomaly,
        "warning": provenance_warning(scorer.manifest.training.provenance, image),
    }


def _failed(path: str, error: ModelsError) -> Row:
    return {"path": path, "error": error.slug, "error_detail": error.detail}
