"""Counts of judged images, with the summary line and the exit code of a command."""

from __future__ import annotations

from dataclasses import dataclass

OK, ANOMALY, USAGE, FAILED, NOT_JUDGED = 0, 1, 2, 3, 4
"""Exit codes: success, an anomaly where that was asked for, wrong usage, a failure of the program, and an image that
was not judged, whatever else was found."""


@dataclass(frozen=True)
class JudgedCounts:
    """Counts of images: how many were judged, how many of these are anomalies, how many could not be judged."""

    judged: int
    anomalies: int
    not_judged: int

    @property
    def text(self) -> str:
        """The counts as one line.

        >>> JudgedCounts(11, 2, 1).text
        '11 images judged, 2 anomalies, 1 not judged'
        """
        images = "1 image" if self.judged == 1 else f"{self.judged} images"
        anomalies = "1 anomaly" if self.anomalies == 1 else f"{self.anomalies} anomalies"
        return f"{images} judged, {anomalies}, {self.not_judged} not judged"

    def exit_code(self, *, fail_on_anomaly: bool) -> int:
        """Return 4 if an image was not judged, else 1 for anomalies with ``fail_on_anomaly``, else 0."""
        if self.not_judged:
            return NOT_JUDGED
        return ANOMALY if fail_on_anomaly and self.anomalies else OK
