"""Rows of a table of scores, and its schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa

from snf_runtime.anomaly.conformal import DIGITS

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
Row = dict[str, Any]
"""The values of one image by column; missing values are null."""


class ReasonText(Protocol):
    @property
    def text(self) -> str: ...

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """Left, top, right and bottom in pixels of the upright file; None without a region."""
        ...


class JudgedValues(Protocol):
    """A verdict of this process or of a service."""

    @property
    def p_value(self) -> float: ...

    @property
    def score(self) -> float:
        """-log10 of the p-value."""
        ...

    @property
    def statistic(self) -> float:
        """In nats; a large value indicates an anomaly."""
        ...

    @property
    def is_anomaly(self) -> bool: ...

    @property
    def reasons(self) -> Sequence[ReasonText] | None:
        """The strongest first; None if not given."""
        ...


def row_of(
    path: str, log_likelihood: float, bits_per_dim: float | None, verdict: JudgedValues, warning: str | None
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
