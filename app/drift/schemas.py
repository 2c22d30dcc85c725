"""API answer about drift, and the allowed form of the label of an image source, such as a camera."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from app.http.schemas import Answer, pattern

SOURCE = pattern(
    r"^[A-Za-z0-9][A-Za-z0-9._:/ -]{0,63}$",
    "1 to 64 of A-Z a-z 0-9 . _ : / - and spaces, with a letter or digit first",
)
"""Pattern of the label of a source of images: a camera, a line, a lot."""


class WhiteLevelDrift(Answer):
    """Result of a Kolmogorov-Smirnov test that compares the light of recent images with that of calibration images.

    The white level of an image is the smallest grey level that at least 99 % of its values do not exceed.
    """

    statistic: float = Field(description="Kolmogorov-Smirnov distance of the white levels.")
    p_value: float = Field(description="How likely so large a distance is without drift.")
    median: int = Field(description="Median white level of the images in the window, 0 to 255.")
    usual: int = Field(description="Median white level of the calibration images.")


class Drift(Answer):
    """Results of Kolmogorov-Smirnov tests that compare recently scored images with the calibration images."""

    source: str | None = Field(description="Source of the images; null for all images together.")
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
    low_share: float = Field(description="Share of images with a p-value of 0.05 or less; about 0.05 without drift.")
    alarm: bool = Field(
        description="Starts when the p-value of either test is at most half of the service's threshold, or where there "
        "is one test the whole; ends when both exceed ten times that."
    )
    since: datetime = Field(description="Time at which the oldest image of the window was scored.")
    alarm_since: datetime | None = Field(description="Start of the alarm, while it lasts.")
