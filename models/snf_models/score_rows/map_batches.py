"""Scoring of batches as Ray Data passes them: dicts of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from snf_models.errors import ImageError, unsupported_image
from snf_models.score_rows.judged_rows import Judge, batches_of, judged_rows
from snf_models.score_rows.row import SCHEMA, Row
from snf_runtime.images.codec import DecodedImage, decode_image
from snf_runtime.images.preprocessing import MODES, Preprocessing, conform_pixels

IMAGE, PATH = "image", "path"
LABELS = ("model", "calibration", "alpha", "dataset")
"""Columns of a table that are the same in all rows of a job."""
SCORE_COLUMNS = tuple(name for name in SCHEMA.names if name not in {PATH, *LABELS})
"""The columns that :func:`score_columns` adds."""
Columns = Mapping[str, Any]


def score_columns(judge: Judge, batch: Columns, alpha: float | None = None) -> dict[str, Any]:
    """Score the images in the column ``image`` of a table batch; return the other columns and the scores.

    The column of the images is left out. Each column has one value for each image.

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
