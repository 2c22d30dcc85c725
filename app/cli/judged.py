"""Counts of a command that judges images: what it says at the end, and its exit code."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from app.cli.common import ANOMALY, NOT_JUDGED, OK

EXIT_CODES = (
    "Exit codes: 0 every file was judged; 1 an anomaly, with --fail-on-anomaly; 2 wrong usage; 3 the service or this "
    "program failed; 4 at least one file was not judged, whatever else was found."
)


@dataclass(frozen=True)
class JudgedCounts:
    """Numbers of images that a command judged, of anomalies among them, and of images that could not be judged."""

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

    def exit(self, *, fail_on_anomaly: bool) -> None:
        """End the command with code 4 if an image was not judged, or 1 for an anomaly if ``fail_on_anomaly`` is set."""
        if self.not_judged:
            raise typer.Exit(NOT_JUDGED)
        raise typer.Exit(ANOMALY if fail_on_anomaly and self.anomalies else OK)
