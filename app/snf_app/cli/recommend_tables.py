from __future__ import annotations

import json
import shlex

from rich.console import Console

from snf_app.cli.tables import TableColumn, print_table
from snf_client.schemas.recommendations import RecommendationRecord
from snf_models.recommendation.rule import limit_cell_text

TYPICAL = "Typical limit: the size from which a family finds 90 % of the defects, averaged over their kinds"


def print_recommendation(record: RecommendationRecord) -> None:
    """Print the results of all families, the proposal or ``none``, and the command that trains it."""
    console = Console()
    _print_figures(record)
    if any(result.curves for result in record.families):
        _print_limits(record)

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    for result in record.families:
        if result.unavailable or result.not_determinable:
            line(f"- {result.family}: {result.unavailable or result.not_determinable}")
    line("proposal: none" if record.proposal is None else f"proposal: {record.proposal} ({record.preset})")
    for text in (*record.reasons, TYPICAL, record.not_covered, *record.notes):
        line(f"- {text}")
    images = record.images
    reference = (
        f"{images.statistics} for statistics, {images.ranks} for ranks"
        if images.ranks
        else f"{images.statistics} for statistics and ranks in folds"
    )
    line(
        f"- {images.fit} images of the train part to fit, {reference}; "
        f"defects in {images.good} others; no other part is used; "
        f"alpha {record.alpha:.3g}; {record.seconds:.0f} s"
    )
    if record.preset is not None:
        # Not broken into lines, so that it can be copied.
        console.print(f"go on with: {train_command(record)}", markup=False, highlight=False, soft_wrap=True)


def train_command(record: RecommendationRecord) -> str:
    """Return the ``snf train`` command line that trains the recommended model on the whole dataset."""
    words = ["snf", "train", "--data", record.dataset, "--preset", record.preset or ""]
    for name, value in record.parameters.items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def _print_figures(record: RecommendationRecord) -> None:
    columns = (
        TableColumn("family"),
        TableColumn("held-out", right=True),
        TableColumn("trivial", right=True),
        TableColumn("unit", right=True),
        TableColumn("typical limit, pixels", right=True, fold=14),
        TableColumn("false alarms", right=True),
        TableColumn("fit, s", right=True, drop=3),
        TableColumn("1,000 images, s", right=True, drop=2),
    )
    rows = [
        (
            result.family,
            _number(result.held_out, 3),
            _number(result.baseline, 3),
            result.unit or "-",
            result.typical_limit or "-",
            "-" if result.undamaged is None else f"{result.undamaged.flagged} of {result.undamaged.images}",
            _number(result.fit_seconds, 0),
            _number(result.seconds_per_1000, 1),
        )
        for result in record.families
    ]
    print_table(columns, rows, f"families on {record.dataset}")


def _print_limits(record: RecommendationRecord) -> None:
    compared = [result for result in record.families if result.curves]
    columns = [
        TableColumn("defect", fold=16),
        *(TableColumn(result.family, right=True, fold=14) for result in compared),
    ]
    rows = [
        (of_families[0].label, *map(limit_cell_text, of_families))
        for of_families in zip(*(result.curves for result in compared), strict=True)
    ]
    print_table(columns, rows, "detection limits in pixels")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
