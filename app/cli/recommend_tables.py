"""Tables of a recommendation for the terminal: the families side by side, their limits, and the proposal."""

from __future__ import annotations

import json
import shlex

from rich.console import Console
from rich.table import Table

from models.recommendation.record import RecommendationRecord
from models.recommendation.rule import limit_cell_text

MIN_WIDTH = 110
"""Columns of a table at least: in a narrower terminal lines break, but no number is cut."""


def print_recommendation(record: RecommendationRecord) -> None:
    """Print what each family reached, the proposal with its reasons, and the command to go on with."""
    console = Console()
    wide = Console(width=max(console.width, MIN_WIDTH))
    wide.print(_figures(record))
    if any(result.curves for result in record.families):
        wide.print(_limits(record))

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    for result in record.families:
        if result.unavailable or result.not_determinable:
            line(f"- {result.family}: {result.unavailable or result.not_determinable}")
    line("proposal: none" if record.proposal is None else f"proposal: {record.proposal} ({record.preset})")
    for text in (*record.reasons, record.not_covered, *record.notes):
        line(f"- {text}")
    images = record.images
    reference = (
        f"{images.statistics} for statistics, {images.ranks} for ranks"
        if images.ranks
        else f"{images.statistics} for statistics and ranks in folds"
    )
    line(
        f"- {images.fit} images of the train part to fit, {reference}; "
        f"defects in {images.good} images of the {images.good_part} part; calibration part unused; alpha "
        f"{record.alpha:.3g}; {record.seconds:.0f} s"
    )
    if record.preset is not None:
        # Not broken into lines, so that it can be copied.
        console.print(f"go on with: {train_command(record)}", markup=False, highlight=False, soft_wrap=True)


def train_command(record: RecommendationRecord) -> str:
    """Return the command that trains a model of the proposed family on the whole dataset."""
    words = ["snf", "train", "--data", record.dataset, "--preset", record.preset or ""]
    for name, value in record.parameters.items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def _figures(record: RecommendationRecord) -> Table:
    table = Table(title=f"families on {record.dataset}", title_justify="left")
    table.add_column("family", no_wrap=True)
    for name in ("held-out", "trivial", "unit", "mean rank", "false alarms", "fit, s", "1,000 images, s"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in record.families:
        undamaged = result.undamaged
        table.add_row(
            result.family,
            _number(result.held_out, 3),
            _number(result.baseline, 3),
            result.unit or "-",
            _number(result.mean_rank, 2),
            "-" if undamaged is None else f"{undamaged.flagged} of {undamaged.images}",
            _number(result.fit_seconds, 0),
            _number(result.seconds_per_1000, 1),
        )
    return table


def _limits(record: RecommendationRecord) -> Table:
    table = Table(title="detection limits in pixels", title_justify="left")
    table.add_column("defect", no_wrap=True)
    compared = [result for result in record.families if result.curves]
    for result in compared:
        table.add_column(result.family, justify="right", no_wrap=True)
    for rows in zip(*(result.curves for result in compared), strict=True):
        table.add_row(rows[0].label, *map(limit_cell_text, rows))
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
