"""Rows with the score and the verdict of each image, or its error."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from snf_models.artifacts.manifest import Manifest
from snf_models.datasets.image_source import NamedImage
from snf_models.errors import ImageError
from snf_models.images import remark
from snf_models.score_rows.row import Row, failed_row, row_of
from snf_runtime.images.batch import Batch, batch_of, in_batches
from snf_runtime.images.codec import DecodedImage
from snf_runtime.images.placement import FilePlacement
from snf_runtime.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from snf_runtime.anomaly.judged import JudgedImage, Judgement

BATCH = 64
BATCH_BYTES = 64 * 2**20
"""Most bytes of a batch of several images."""


class Judge(Protocol):
    """A loaded model that scores images and flags anomalies."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    def judge_each(self, images: Batch, alpha: float | None) -> list[Judgement]:
        """Return the log-likelihood and verdict, or the error, of each image."""
        ...


def batches_of(images: Iterable[NamedImage]) -> Generator[list[NamedImage]]:
    """Yield at most 64 images at once, fewer if their pixels would exceed 64 MiB."""
    yield from in_batches(images, BATCH, BATCH_BYTES, _bytes)


def judged_rows(judge: Judge, batch: Sequence[NamedImage], alpha: float | None) -> list[Row]:
    """Return a row for each image, in order; raise ``AlphaUnattainable``."""
    good = [image.pixels for _, image in batch if isinstance(image, DecodedImage)]
    judged = iter(judge.judge_each(batch_of(good, judge.preprocessing), alpha) if good else [])
    rows = []
    for path, image in batch:
        result = image if isinstance(image, ImageError) else next(judged)
        if isinstance(result, ImageError):
            rows.append(failed_row(path, result.slug, result.detail))
        else:
            assert isinstance(image, DecodedImage)
            rows.append(_row(judge.manifest, path, image, result))
    return rows


def _bytes(named: NamedImage) -> int:
    _, image = named
    return image.pixels.nbytes if isinstance(image, DecodedImage) else 0


def _row(manifest: Manifest, path: str, image: DecodedImage, judged: JudgedImage) -> Row:
    placement = FilePlacement.of(manifest.preprocessing, image.file_size)
    likelihood, verdict = judged.likelihood, judged.verdict.in_file(placement)
    note = remark(manifest.training.provenance, image)
    return row_of(path, likelihood.log_likelihood, likelihood.bits_per_dim, verdict, note)
