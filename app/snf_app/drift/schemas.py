"""Response schemas of the drift API, and the pattern for labels of image sources such as cameras."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from snf_app.http.schemas import Answer, pattern

SOURCE = pattern(
    r"^[A-Za-z0-9][A-Za-z0-9._:/ -]{0,63}$",
    "1 to 64 of A-Z a-z 0-9 . _ : / - and spaces, with a letter or digit first",
)
"""Pattern of the label of a source of images: a camera, a line, a lot."""

EXAMPLE: dict[str, Any] = {
    "source": "line-1/left",
    "images": 21480,
    "since": "2026-03-02T06:00:12Z",
    "quantity": "white-level",
    "log10_capital": 4.2,
    "log10_highest": 4.9,
    "log10_threshold": 3.3,
    "alarm": True,
    "alarm_since": "2026-03-04T10:02:17Z",
}


class Drift(Answer):
    """Result of the drift test on all images of one source, such as a camera, or of all sources.

    It tells whether scored images still look like the calibration images, by a martingale: a capital of 1 is bet
    against that.

    Each image is ranked among the calibration images and all earlier images, by anomaly statistic and by white level:
    the smallest grey level that at least 99 % of its values do not exceed. Images of equal rank are ordered by chance.
    Of a calibration in folds, the statistic and the images are those of the first fold. Without drift a capital ever
    reaches c with a probability of at most 1 / c, however often it is looked at.
    """

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [EXAMPLE]})

    source: str | None = Field(description="Source of the images; null for all sources together.")
    images: int = Field(description="Images since the start, or since drift was last acknowledged.")
    since: datetime = Field(description="Time at which the first of them was scored.")
    quantity: Literal["statistic", "white-level"] = Field(
        description="What the highest capital was bet on: ranks of the anomaly statistic, or of the white level. There "
        "is no bet on white levels for a calibration made before they were stored."
    )
    log10_capital: float = Field(description="Decimal logarithm of the larger capital now; 0 at the start.")
    log10_highest: float = Field(description="Decimal logarithm of the highest capital so far.")
    log10_threshold: float = Field(
        description="Decimal logarithm of the capital that raises an alarm: the service's threshold, or twice that "
        "where white levels are known, because there are two capitals then."
    )
    alarm: bool = Field(
        description="Whether a capital has reached the threshold. The alarm lasts until it is acknowledged."
    )
    alarm_since: datetime | None = Field(description="Start of the alarm, while it lasts.")


class DriftReport(Answer):
    """Drift of the images that a model version has scored: of all sources together, and of each source.

    The images are compared with those of the active calibration.
    """

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={"examples": [{"model": "my-parts", "version": 1, "calibration": 0, "drift": [EXAMPLE]}]},
    )

    model: str
    version: int
    calibration: int = Field(description="The active calibration, with whose images the images are compared.")
    drift: list[Drift] = Field(
        description="All sources together first, then each source. Each is absent until an image of it is scored, also "
        "after it was acknowledged."
    )
