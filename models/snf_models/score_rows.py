"""Rows of scores: their columns, the rows of a batch of images, and batches of images as columns of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from snf_client.schemas.scores import Anomaly
from snf_models.artifacts.manifest import Manifest
from snf_models.errors import ImageError, unsupported_image
from snf_models.images import remark
from snf_runtime.anomaly.calibration import DIGITS
from snf_runtime.anomaly.verdict import Verdict
from snf_runtime.images.batch import Batch, NamedImage, batch_of, batches_of
from snf_runtime.images.codec import DecodedImage, decode_image
from snf_runtime.images.preprocessing import MODES, FilePlacement, Preprocessing, conform_pixels

if TYPE_CHECKING:
    from snf_runtime.anomaly.detection import Detection

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
IMAGE = "image"
SCORE_COLUMNS = tuple(name for name in SCHEMA.names if name not in {"path", "model", "calibration", "alpha", "dataset"})
"""The columns that :func:`score_columns` adds."""

Row = dict[str, Any]
"""The values of one image by column; missing values are null."""
Columns = Mapping[str, Any]


class Judge(Protocol):
    """A loaded model that scores images and flags anomalies."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    def detect(self, images: Batch, alpha: float | None) -> list[Detection | ImageError]:
        """Return the log-likelihood and verdict, or the error, of each image."""
        ...


def scored_row(
    path: str, log_likelihood: float, bits_per_dim: float | None, verdict: Verdict | Anomaly, warning: str | None
) -> Row:
    """Return the row of a scored image; the warning is of its file, and boxes are in pixels of the upright file."""
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
    """Return the row of an image that could not be scored."""
    return {"path": path, "error": error, "error_detail": detail}


def judged_rows(judge: Judge, batch: Sequence[NamedImage], alpha: float | None) -> list[Row]:
    """Return a row for each image, in order; raise ``AlphaUnattainable``."""
    good = [image.pixels for _, image in batch if isinstance(image, DecodedImage)]
    judged = iter(judge.detect(batch_of(good, judge.preprocessing), alpha) if good else [])
    rows = []
    for path, image in batch:
        result = image if isinstance(image, ImageError) else next(judged)
        if isinstance(result, ImageError):
            rows.append(failed_row(path, result.slug, result.detail))
            continue
        assert isinstance(image, DecodedImage)
        manifest, likelihood = judge.manifest, result.likelihood
        verdict = result.verdict.in_file(FilePlacement.of(manifest.preprocessing, image.file_size))
        note = remark(manifest.training.provenance, image)
        rows.append(scored_row(path, likelihood.log_likelihood, likelihood.bits_per_dim, verdict, note))
    return rows


def score_columns(judge: Judge, batch: Columns, alpha: float | None = None) -> dict[str, Any]:
    """Score the images in the column ``image`` of a batch of columns, as Ray Data passes it.

    Args:
        judge: The model.
        batch: A column ``image`` and any others. An image is the bytes of a file, a struct with such ``bytes``, or
            pixels, uint8 ``(C, H, W)``; the column is a sequence of them, or pixels ``(N, C, H, W)``.
        alpha: The false-alarm rate of the verdicts; None for the default.

    Returns:
        The columns of the batch without ``image``, and :data:`SCORE_COLUMNS`. Numbers are float64, NaN where there is
        none. The others are arrays of objects, None where there is none.

    Raises:
        ValueError: There is no column ``image``, or another one has the name of a score.
        AlphaUnattainable: The calibration has too few images for ``alpha``.
    """
    if IMAGE not in batch:
        raise ValueError(f"expected a column {IMAGE!r}, got {', '.join(map(repr, batch)) or 'none'}")
    taken = [name for name in batch if name in SCORE_COLUMNS]
    if taken:
        raise ValueError(f"expected columns without the names of scores, got {', '.join(map(repr, taken))}")
    images = (("", _image(value, judge.preprocessing)) for value in batch[IMAGE])
    rows = [row for part in batches_of(images) for row in judged_rows(judge, part, alpha)]
    kept = {name: values for name, values in batch.items() if name != IMAGE}
    return kept | {name: _array(rows, name) for name in SCORE_COLUMNS}


def _image(value: Any, preprocessing: Preprocessing) -> DecodedImage | ImageError:
    try:
        if isinstance(value, Mapping):
            value = value.get("bytes")
        if isinstance(value, bytes | bytearray | memoryview):
            return decode_image(bytes(value), preprocessing)
        if not isinstance(value, np.ndarray):
            kind = "null" if value is None else type(value).__name__
            raise unsupported_image(f"expected bytes or an array, got {kind}")
        if value.dtype != np.uint8 or value.ndim != 3 or len(value) not in MODES or not value.size:
            raise unsupported_image(
                f"expected uint8 (C, H, W) with 1, 3 or 4 channels, got {value.dtype} {value.shape}"
            )
        return conform_pixels(value, preprocessing)
    except ImageError as error:
        return error


def _array(rows: list[Row], name: str) -> NDArray[Any]:
    values = [row.get(name) for row in rows]
    if pa.types.is_floating(SCHEMA.field(name).type):
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return np.fromiter(values, dtype=object, count=len(values))
