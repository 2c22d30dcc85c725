"""Response schemas of the drift API, and the pattern for labels of image sources such as cameras."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from app.http.schemas import Answer, pattern

SOURCE = pattern(
    r"^[A-Za-z0-9][A-Za-z0-9._:/ -]{0,63}$",
    "1 to 64 of A-Z a-z 0-9 . _ : / - and spaces, with a letter or digit first",
)
"""Pattern of the label of a source of images: a camera, a line, a lot."""

EXAMPLE: dict[str, Any] = {
    "source": "line-1/left",
    "images": 500,
    "statistic": 0.042,
    "p_value": 0.34,
    "white_level": {"statistic": 0.061, "p_value": 0.05, "median": 231, "usual": 233},
    "martingale": {
        "of": "white-level",
        "log10_capital": 4.2,
        "log10_highest": 4.9,
        "log10_threshold": 3.3,
        "images": 21480,
        "since": "2026-03-02T06:00:12Z",
    },
    "low_share": 0.052,
    "alarm": True,
    "alarm_by": ["martingale"],
    "since": "2026-03-04T11:20:41Z",
    "alarm_since": "2026-03-04T10:02:17Z",
}


class WhiteLevelDrift(Answer):
    """Result of the drift test on the brightness (white level) of recently scored images.

    The test is a Kolmogorov-Smirnov test that compares the white levels of recent images with those of the calibration
    images.

    The white level of an image is the smallest grey level that at least 99 % of its values do not exceed.
    """

    statistic: float = Field(description="Kolmogorov-Smirnov distance of the white levels.")
    p_value: float = Field(description="How likely so large a distance is without drift.")
    median: int = Field(description="Median white level of the images in the window, 0 to 255.")
    usual: int = Field(description="Median white level of the calibration images.")


class Martingale(Answer):
    """Current result of the martingale test, a sequential test for drift of the scored images.

    A capital is bet against the images being like the calibration images.

    Each image is ranked among the calibration images and all earlier images, by anomaly statistic and by white level.
    Images of equal rank are ordered by chance. Of a calibration in folds, the statistic and the images are those of the
    first fold. The capital starts at 1. Without drift it ever reaches c with a probability of at most 1 / c, however
    often it is looked at.
    """

    of: Literal["p-values", "white-level"] = Field(
        description="What the highest capital was bet on: ranks of the anomaly statistic, or of the white level."
    )
    log10_capital: float = Field(description="Decimal logarithm of the larger capital now; 0 at the start.")
    log10_highest: float = Field(description="Decimal logarithm of the highest capital so far.")
    log10_threshold: float = Field(
        description="Decimal logarithm of the capital that raises an alarm: the service's threshold, or twice that "
        "where white levels are known, because there are two capitals then."
    )
    images: int = Field(description="Images since the start, or since drift was last acknowledged.")
    since: datetime = Field(description="Time at which the first of them was scored.")


class Drift(Answer):
    """Drift test results of a model, for images of one source, such as a camera, or of all sources.

    They tell whether scored images still look like the calibration images.

    Kolmogorov-Smirnov tests compare the newest images, in a window. A martingale test bets on all images.
    """

    model_config = ConfigDict(frozen=True, from_attributes=True, json_schema_extra={"examples": [EXAMPLE]})

    source: str | None = Field(description="Source of the images; null for all sources together.")
    images: int = Field(description="Images in the window of the newest images.")
    statistic: float | None = Field(
        description="Two-sample Kolmogorov-Smirnov distance of the p-values from those of the calibration images; null "
        "while there are too few images."
    )
    p_value: float | None = Field(description="How likely so large a distance is without drift; null with `statistic`.")
    white_level: WhiteLevelDrift | None = Field(
        description="The same test of the light; null while there are too few images, and for a calibration made "
        "before white levels were stored."
    )
    martingale: Martingale | None = Field(
        None,
        description="The martingale test; null where the service has turned it off, and until an image is scored after "
        "an update from a service with another one.",
    )
    low_share: float = Field(description="Share of images with a p-value of 0.05 or less; about 0.05 without drift.")
    alarm: bool = Field(description="Whether any test raises an alarm.")
    alarm_by: list[Literal["p-values", "white-level", "martingale"]] = Field(
        [],
        description="The tests that raise it. `p-values`, `white-level`: the alarm starts when the p-value of the "
        "Kolmogorov-Smirnov test is at most half of the service's threshold, or where there is one test the whole; it "
        "ends when it exceeds ten times that. `martingale`: the alarm starts when the capital reaches its threshold, "
        "and lasts until it is acknowledged.",
    )
    since: datetime = Field(description="Time at which the oldest image of the window was scored.")
    alarm_since: datetime | None = Field(description="Start of the alarm, while it lasts.")


class DriftReport(Answer):
    """Drift test results of a model version, for all image sources together and for each source.

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
