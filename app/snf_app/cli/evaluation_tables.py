from __future__ import annotations

from rich.console import Console
from rich.text import Text

from snf_app.cli.tables import TableColumn, print_table
from snf_client.schemas.evaluations import EvaluationReport, FalseAlarms, Rate, SetReport
from snf_models.evaluation.report import HEADLINE, percent, result_of, summary

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
    rows = []
    for result in anomalous.results:
        column = report.column(result.score)
        if column.family not in HEADLINE:
            continue
        alarms, detected = column.false_alarms[0], result.detected[0]
        cells = (
            column.name,
            f"{result.auroc:.4f}",
            "{:.4f}-{:.4f}".format(*result.auroc_interval),
            f"{result.aupr:.4f}",
            percent(result.fpr95),
            _flagged(detected, report.alphas[0]),
            _flagged(alarms, report.alphas[0]),
            "{:.2f}-{:.2f} %".format(*(100 * end for end in alarms.interval)),
        )
        rows.append([Text(cell, "bold" if column.family == "combined" else "") for cell in cells])
    print_table(
        columns, rows, f"{report.model}: {report.normal.name} against {anomalous.name}, alpha = {report.alphas[0]:.4g}"
    )


def _flagged(rate: Rate | FalseAlarms, alpha: float) -> str:
    return percent(rate.share) if rate.alpha == alpha else f"{percent(rate.share)}\nat {rate.alpha:.4g}"


def _print_subfolders(report: EvaluationReport, anomalous: SetReport) -> None:
    columns = (
        TableColumn("subfolder", fold=24),
        TableColumn("images", right=True),
        *(TableColumn(f"found at {alpha:.4g}", right=True) for alpha in report.alphas),
        TableColumn("AUROC", right=True),
    )
    rows = [
        (entry.name, str(entry.images), *(percent(rate.share) for rate in entry.detected), f"{entry.auroc:.4f}")
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
        rows.append(
            (
                anomalous.name,
                str(entry.images),
                str(entry.unpaired + entry.empty_masks),
                f"{entry.pixel_auroc:.4f}",
                f"{entry.aupro:.4f}",
                "-" if entry.aupimo is None else f"{entry.aupimo:.4f}",
                "-" if entry.aupimo_found is None else percent(entry.aupimo_found),
                *(
                    ["-"] * 3
                    if rates is None
                    else [f"{rates.alpha:.4g}", percent(rates.hit), percent(rates.false_alarms)]
                ),
            )
        )
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
