"""Row of an image in a table of scores, and the schema of the table's columns."""

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
    """Interface of a reason why an image was flagged: a text, and the box of an image region if any.

    The box is in pixels of the upright file.
    """

    @property
    def text(self) -> str:
        """The reason for the anomaly verdict on an image, in words."""
        ...

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """Box, in pixels, around the image region that this reason for a verdict points to, or None.

        It gives left, top, right and bottom. It is None if the reason has no region.
        """
        ...


class JudgedValues(Protocol):
    """Interface of an object with an image's anomaly verdict: p-value, score, statistic, decision and reasons.

    It was made in this process, or comes from the response of a service.
    """

    @property
    def p_value(self) -> float:
        """The conformal p-value of the image; a small value indicates an anomaly."""
        ...

    @property
    def score(self) -> float:
        """The anomaly score of the image: -log10 of the p-value."""
        ...

    @property
    def statistic(self) -> float:
        """The anomaly test statistic of the image, in nats; a large value indicates an anomaly.

        Its rank among the statistics of calibration images gives the p-value.
        """
        ...

    @property
    def is_anomaly(self) -> bool:
        """Whether the image is flagged as an anomaly."""
        ...

    @property
    def reasons(self) -> Sequence[ReasonText] | None:
        """The main reasons for the anomaly verdict on the image, the strongest first; None if not given."""
        ...


def row_of(
    path: str, log_likelihood: float, bits_per_dim: float | None, verdict: JudgedValues, warning: str | None
) -> Row:
    """Return the table row of a scored image: a dict with log-likelihood, p-value and anomaly verdict.

    Args:
        path: Name of the image.
        log_likelihood: Its log-likelihood in nats.
        bits_per_dim: The same in bits for each value; None for a density of features.
        verdict: Its verdict, with boxes in pixels of the upright file.
        warning: What was done to the file, and how it differs from the training images; None if there is nothing.
    """
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
    """Return the table row, a dict with path and error, of an image that could not be scored.

    The row has the short code and the text of the error.
    """
    return {"path": path, "error": error, "error_detail": detail}
