"""The report of an evaluation on a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.evaluation.report import HEADLINE, percent, result_of, summary
from models.evaluation.schema import EvaluationReport, SetReport

NARROWEST = 120
"""Columns that the tables take: in a narrower terminal lines break, but no number is cut."""
SHORT = {
    "gradient-family": "gradients",
    "whole-family": "whole",
    "local-family": "local",
    "log-likelihood-low": "-log p",
    "log-likelihood-two-sided": "|log p|",
    "png-size": "PNG",
    "intensity-moments": "moments",
    "pca-mahalanobis": "PCA",
}


def print_report(report: EvaluationReport) -> None:
    """Prints a table for each dataset and one for all faults, baselines always, and what they say in words."""
    console = Console()
    wide = Console(width=max(console.width, NARROWEST))
    for one in report.sets:
        if one.kind == "dataset":
            wide.print(_against(report, one))
    faults = [one for one in report.sets if one.kind == "corruption"]
    if faults:
        wide.print(_faults(report, faults))
    for line in (*summary(report), *report.notes):
        console.print(f"- {line}", markup=False, highlight=False)


def _against(report: EvaluationReport, one: SetReport) -> Table:
    table = _table(f"{report.model}: {report.normal.name} against {one.name}, alpha = {report.alphas[0]:g}", "score")
    for heading in ("AUROC", "95 %", "AUPR", "FPR95", "found", "alarms", "99 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in one.results:
        column = report.column(result.score)
        if column.family not in HEADLINE:
            continue
        alarms, found = column.false_alarms[0], result.detected[0]
        table.add_row(
            column.name,
            f"{result.auroc:.4f}",
            "{:.4f}-{:.4f}".format(*result.auroc_interval),
            f"{result.aupr:.4f}",
            percent(result.fpr95),
            "-" if found.share is None else percent(found.share),
            "-" if alarms.share is None else percent(alarms.share),
            "{:.2f}-{:.2f} %".format(*(100 * end for end in alarms.interval)),
            style="bold" if column.family == "combined" else None,
        )
    return table


def _faults(report: EvaluationReport, faults: list[SetReport]) -> Table:
    table = _table(f"{report.model}: {report.normal.name} against itself with faults, AUROC", "fault")
    names = [column.name for column in report.columns if column.family in HEADLINE]
    for name in names:
        table.add_column(SHORT.get(name, name), justify="right", no_wrap=True)
    table.add_column("- best baseline", justify="right", no_wrap=True)
    for one in faults:
        aurocs = [f"{result_of(one, name).auroc:.3f}" for name in names]
        table.add_row(one.name, *aurocs, f"{one.auroc_over_baseline:+.3f}")
    return table


def _table(title: str, first: str) -> Table:
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column(first, no_wrap=True)
    return table
