"""Tables of an evaluation report for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.evaluation.report import HEADLINE, percent, result_of, summary
from models.evaluation.schema import EvaluationReport, SetReport

MIN_WIDTH = 120
"""Columns of the tables at least: in a narrower terminal lines break, but no number is cut."""
SHORT_NAMES = {
    "gradient-family": "gradients",
    "whole-family": "whole",
    "local-family": "local",
    "feature-family": "features",
    "log-likelihood-low": "-log p",
    "log-likelihood-two-sided": "|log p|",
    "png-size": "PNG",
    "intensity-moments": "moments",
    "pca-mahalanobis": "PCA",
}


def print_report(report: EvaluationReport) -> None:
    """Print detection scores such as AUROC: a table per anomalous dataset, one for simulated faults, and a summary."""
    console = Console()
    wide = Console(width=max(console.width, MIN_WIDTH))
    for anomalous in report.sets:
        if anomalous.kind == "dataset":
            wide.print(_dataset_table(report, anomalous))
    masked = [anomalous for anomalous in report.sets if anomalous.localisation is not None]
    if masked:
        wide.print(_localisation_table(report, masked))
    faults = [anomalous for anomalous in report.sets if anomalous.kind == "corruption"]
    if faults:
        wide.print(_fault_table(report, faults))
    for line in (*summary(report), *report.notes):
        console.print(f"- {line}", markup=False, highlight=False)


def _dataset_table(report: EvaluationReport, anomalous: SetReport) -> Table:
    table = _table(
        f"{report.model}: {report.normal.name} against {anomalous.name}, alpha = {report.alphas[0]:g}", "score"
    )
    for heading in ("AUROC", "95 %", "AUPR", "FPR95", "found", "alarms", "99 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in anomalous.results:
        column = report.column(result.score)
        if column.family not in HEADLINE:
            continue
        alarms, detected = column.false_alarms[0], result.detected[0]
        table.add_row(
            column.name,
            f"{result.auroc:.4f}",
            "{:.4f}-{:.4f}".format(*result.auroc_interval),
            f"{result.aupr:.4f}",
            percent(result.fpr95),
            percent(detected.share),
            percent(alarms.share),
            "{:.2f}-{:.2f} %".format(*(100 * end for end in alarms.interval)),
            style="bold" if column.family == "combined" else None,
        )
    return table


def _localisation_table(report: EvaluationReport, masked: list[SetReport]) -> Table:
    table = _table(f"{report.model}: where the defects are, by masks, and regions at the smallest alpha", "defects")
    headings = "masks", "without", "pixel AUROC", "AUPRO", "AUPIMO", "found", "alpha", "region hits", "region alarms"
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for anomalous in masked:
        entry = anomalous.localisation
        assert entry is not None
        # None for a calibration of an earlier version, or one too small for every alpha.
        rates = next((rates for rates in entry.regions if rates.hit is not None), None)
        table.add_row(
            anomalous.name,
            str(entry.images),
            str(entry.unpaired + entry.empty_masks),
            f"{entry.pixel_auroc:.4f}",
            f"{entry.aupro:.4f}",
            "-" if entry.aupimo is None else f"{entry.aupimo:.4f}",
            "-" if entry.aupimo_found is None else percent(entry.aupimo_found),
            *(["-"] * 3 if rates is None else [f"{rates.alpha:g}", percent(rates.hit), percent(rates.false_alarms)]),
        )
    return table


def _fault_table(report: EvaluationReport, faults: list[SetReport]) -> Table:
    table = _table(f"{report.model}: {report.normal.name} against itself with faults, AUROC", "fault")
    names = [column.name for column in report.columns if column.family in HEADLINE]
    for name in names:
        table.add_column(SHORT_NAMES.get(name, name), justify="right", no_wrap=True)
    table.add_column("- best baseline", justify="right", no_wrap=True)
    for fault in faults:
        aurocs = [f"{result_of(fault, name).auroc:.3f}" for name in names]
        table.add_row(fault.name, *aurocs, f"{fault.auroc_over_baseline:+.3f}")
    return table


def _table(title: str, first: str) -> Table:
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column(first, no_wrap=True)
    return table
