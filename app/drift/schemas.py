"""What the service answers about drift."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from app.http.schemas import Answer


class Drift(Answer):
    """Whether recent images of a model look like its calibration images, by their p-values."""

    source: str | None = Field(description="The source that the images were sent with; null for all images together.")
    images: int = Field(description="Images in the window: the newest that were scored.")
    statistic: float | None = Field(
        description="Two-sample Kolmogorov-Smirnov distance of the p-values from those of the calibration images; null "
        "while there are too few images."
    )
    p_value: float | None = Field(description="How rare a distance this large is without drift; null with `statistic`.")
    low_share: float = Field(description="Share of images with a p-value of 0.05 or less; about 0.05 without drift.")
    alarm: bool = Field(
        description="Starts where the p-value is at most the service's threshold, ends where it is past ten times that."
    )
    since: datetime = Field(description="When the oldest image of the window was scored.")
    alarm_since: datetime | None = Field(description="When the alarm was first seen, while it lasts.")
