"""Tables of evaluations, detection limits and recommendations."""

from __future__ import annotations

import json
import shlex
from functools import partial

from rich.console import Console
from rich.text import Text

from snf_app.cli.output import Cell, TableColumn, print_table, text_of
from snf_client.schemas.evaluations import EvaluationReport, FalseAlarms, Rate, Result, SetReport
from snf_client.schemas.limits import LimitCurve, LimitRecord
from snf_client.schemas.recommendations import FamilyResult, RecommendationRecord
from snf_models.evaluation.report import HEADLINE, percent, result_of, summary
from snf_models.limits.card import limit_text
from snf_models.recommendation.rule import limit_cell_text

SHORT_NAMES = {
    "whole-family": "whole",
    "local-family": "local",
    "feature-family": "features",
    "log-likelihood-low": "-log p",
    "log-likelihood-two-sided": "|log p|",
    "png-size": "PNG",
    "intensity-moments": "moments",
    "pca-mahalanobis": "PCA",
}
DROPPED = {"baseline": 1, "family": 2}
"""Order in which scores are left out of a table that is too wide, by their family."""


def print_report(report: EvaluationReport) -> None:
    """Print a table for each anomalous dataset, for defect masks and for simulated faults, then a summary."""
    console = Console()
    for anomalous in report.sets:
        if anomalous.kind == "dataset":
            _print_scores(report, anomalous)
            if anomalous.subfolders:
                _print_subfolders(report, anomalous)
    masked = [anomalous for anomalous in report.sets if anomalous.localisation is not None]
    if masked:
        _print_localisation(report, masked)
    faults = [anomalous for anomalous in report.sets if anomalous.kind == "corruption"]
    if faults:
        _print_faults(report, faults)
    for line in (*summary(report), *report.notes):
        console.print(f"- {line}", markup=False, highlight=False)


def _print_scores(report: EvaluationReport, anomalous: SetReport) -> None:
    def found(rate: Rate | FalseAlarms) -> str:
        at = "" if rate.alpha == report.alphas[0] else f"\nat {rate.alpha:.4g}"
        return f"{percent(rate.share)}{at}"

    def row(result: Result) -> list[Cell]:
        column = report.column(result.score)
        alarms = column.false_alarms[0]
        cells = (
            column.name,
            f"{result.auroc:.4f}",
            "{:.4f}-{:.4f}".format(*result.auroc_interval),
            f"{result.aupr:.4f}",
            percent(result.fpr95),
            found(result.detected[0]),
            found(alarms),
            "{:.2f}-{:.2f} %".format(*(100 * end for end in alarms.interval)),
        )
        return [Text(cell, "bold" if column.family == "combined" else "") for cell in cells]

    columns = (
        TableColumn("score"),
        TableColumn("AUROC", right=True),
        TableColumn("95 %", right=True),
        TableColumn("AUPR", right=True, drop=2),
        TableColumn("FPR95", right=True, drop=1),
        TableColumn("found", right=True),
        TableColumn("alarms", right=True),
        TableColumn("99 %", right=True, drop=3),
    )
    rows = [row(result) for result in anomalous.results if report.column(result.score).family in HEADLINE]
    title = f"{report.model}: {report.normal.name} against {anomalous.name}, alpha = {report.alphas[0]:.4g}"
    print_table(columns, rows, title)


def _print_subfolders(report: EvaluationReport, anomalous: SetReport) -> None:
    columns = (
        TableColumn("subfolder", fold=24),
        TableColumn("images", right=True),
        *(TableColumn(f"found at {alpha:.4g}", right=True) for alpha in report.alphas),
        TableColumn("AUROC", right=True),
    )
    rows = [
        (entry.name, entry.images, *(percent(rate.share) for rate in entry.detected), f"{entry.auroc:.4f}")
        for entry in anomalous.subfolders
    ]
    print_table(columns, rows, f"{report.model}: subfolders of {anomalous.name}, combined score")


def _print_localisation(report: EvaluationReport, masked: list[SetReport]) -> None:
    columns = (
        TableColumn("defects", fold=16),
        TableColumn("masks", right=True, drop=2),
        TableColumn("without", right=True, drop=1),
        TableColumn("pixel AUROC", right=True),
        TableColumn("AUPRO", right=True),
        TableColumn("AUPIMO", right=True, drop=4),
        TableColumn("found", right=True, drop=3),
        TableColumn("alpha", right=True),
        TableColumn("region hits", right=True),
        TableColumn("region alarms", right=True),
    )
    rows = []
    for anomalous in masked:
        entry = anomalous.localisation
        assert entry is not None
        # None for a calibration of an earlier version, or one too small for every alpha.
        rates = next((rates for rates in entry.regions if rates.hit is not None), None)
        regions = ("-",) * 3
        if rates is not None:
            regions = (f"{rates.alpha:.4g}", percent(rates.hit), percent(rates.false_alarms))
        counts = (entry.images, entry.unpaired + entry.empty_masks)
        found = "-" if entry.aupimo_found is None else percent(entry.aupimo_found)
        areas = (f"{entry.pixel_auroc:.4f}", f"{entry.aupro:.4f}", text_of(entry.aupimo, ".4f", "-"), found)
        rows.append((anomalous.name, *counts, *areas, *regions))
    print_table(columns, rows, f"{report.model}: where the defects are, by masks, and regions at the smallest alpha")


def _print_faults(report: EvaluationReport, faults: list[SetReport]) -> None:
    scores = [column for column in report.columns if column.family in HEADLINE]
    columns = [
        TableColumn("fault", fold=16),
        # The verdict is by the combined score, so the others are left out first, the baselines before the families.
        *(
            TableColumn(SHORT_NAMES.get(score.name, score.name), right=True, drop=DROPPED.get(score.family))
            for score in scores
        ),
        TableColumn("- best baseline", right=True),
    ]
    rows = [
        (
            fault.name,
            *(f"{result_of(fault, score.name).auroc:.3f}" for score in scores),
            f"{fault.auroc_over_baseline:+.3f}",
        )
        for fault in faults
    ]
    print_table(columns, rows, f"{report.model}: {report.normal.name} against itself with faults, AUROC")


def print_limit(number: int, record: LimitRecord) -> None:
    """Print the limit and the shares found by size, for each shape and contrast, or why there is none."""
    console = Console()
    if record.not_determinable is None:
        _print_curves(record)
    else:
        console.print(f"not determinable: {record.not_determinable}", markup=False, highlight=False)
    undamaged, (_, height, width) = record.undamaged, record.image_shape
    alarms = ""
    if undamaged.interval is not None:
        low, high = undamaged.interval
        alarms = f"; {undamaged.flagged} of {undamaged.images} are flagged without a defect ({low:.1%} to {high:.1%})"
    for line in (
        f"detection limit {number}: {record.images} good images of {record.dataset} ({record.part}), "
        f"{height}x{width} pixels (height x width){alarms}",
        f"found: p <= {record.alpha:g} by calibration {record.calibration}; limit: the smallest size from which on the "
        "95 % bound of the found share is at least 90 %",
        f"seed {record.seed}, {record.seconds:.0f} s; shares of sizes below the limit stand in brackets",
    ):
        console.print(f"- {line}", markup=False, highlight=False)


def _print_curves(record: LimitRecord) -> None:
    columns = [
        TableColumn("defect", lambda curve: curve.label, fold=12),
        TableColumn("limit", limit_text, right=True),
        TableColumn("at least", lambda curve: "" if curve.lower is None else f"{100 * curve.lower:.1f} %", right=True),
        # Of many sizes the largest are left out first: nearly all such defects are found.
        *(TableColumn(str(size), partial(_share, size=size), right=True, drop=-size) for size in record.sizes),
    ]
    print_table(columns, record.curves, "found share in % by size in pixels")


def _share(curve: LimitCurve, size: int) -> str:
    share = next((f"{100 * cell.share:.0f}" for cell in curve.cells if cell.size == size), "")
    is_found = curve.limit is not None and size >= curve.limit
    return share if is_found or not share else f"({share})"


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


def _false_alarms(result: FamilyResult) -> str:
    return "-" if result.undamaged is None else f"{result.undamaged.flagged} of {result.undamaged.images}"


def _print_figures(record: RecommendationRecord) -> None:
    columns = (
        TableColumn("family", lambda result: result.family),
        TableColumn("held-out", lambda result: text_of(result.held_out, ".3f", "-"), right=True),
        TableColumn("trivial", lambda result: text_of(result.baseline, ".3f", "-"), right=True),
        TableColumn("unit", lambda result: result.unit or "-", right=True),
        TableColumn("typical limit, pixels", lambda result: result.typical_limit or "-", right=True, fold=14),
        TableColumn("false alarms", _false_alarms, right=True),
        TableColumn("fit, s", lambda result: text_of(result.fit_seconds, ".0f", "-"), right=True, drop=3),
        TableColumn("1,000 images, s", lambda result: text_of(result.seconds_per_1000, ".1f", "-"), right=True, drop=2),
    )
    print_table(columns, record.families, f"families on {record.dataset}")


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
