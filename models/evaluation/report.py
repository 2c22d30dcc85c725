"""The report of an evaluation for people: one HTML file that fetches nothing. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from models.evaluation.schema import EvaluationReport, FalseAlarms, Interval, Result, SetReport
from models.evaluation.svg import histogram_chart, legend, roc_chart

CONTENT_SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser may do with the report, whatever a name in it tries."""
HEADLINE = ("combined", "thorough", "family", "baseline")
"""Families of scores that stand in the tables that are always open."""
PERCENT = 100


def render_html(report: EvaluationReport) -> str:
    """Return the report as an HTML page; all that comes from users is escaped."""
    return _template().render(
        report=report,
        policy=CONTENT_SECURITY_POLICY,
        summary=summary(report),
        datasets=[one for one in report.sets if one.kind == "dataset"],
        corruptions=[one for one in report.sets if one.kind == "corruption"],
        headline=HEADLINE,
        roc=_roc,
        histogram=lambda one: histogram_chart(one, f"Histograms of {one.label}"),
        legend=legend,
        result_of=result_of,
        labels_of=lambda one: [report.column(curve.score).label for curve in one.curves],
    )


def summary(report: EvaluationReport) -> list[str]:
    """Return what the numbers say, in sentences: is the combined score worth its while, false alarms as promised?"""
    found = [_against(report, one) for one in report.sets if one.kind == "dataset"]
    faults = [one for one in report.sets if one.kind == "corruption"]
    if faults:
        better = sum(one.auroc_over_baseline_interval[0] > 0 for one in faults)
        worse = sum(one.auroc_over_baseline_interval[1] < 0 for one in faults)
        found.append(
            f"Of {len(faults)} graded faults the combined score finds {better} better than the best baseline of each, "
            f"and {worse} worse; for the others the interval of the difference includes zero."
        )
    return found + [_false_alarms(one) for one in report.columns[0].false_alarms]


def result_of(one: SetReport, score: str) -> Result:
    """Return a score's result on a set."""
    return next(result for result in one.results if result.score == score)


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share in per cent.

    >>> percent(0.0123), percent(None)
    ('1.23 %', 'not attainable')
    """
    return "not attainable" if share is None else f"{PERCENT * share:.{digits}f} %"


def _against(report: EvaluationReport, one: SetReport) -> str:
    ours = result_of(one, report.columns[0].name)
    low, high = one.auroc_over_baseline_interval
    verdict = "better than" if low > 0 else "worse than" if high < 0 else "not told apart from"
    flagged = ", ".join(f"{percent(rate.share)} at alpha = {rate.alpha:g}" for rate in ours.detected)
    return (
        f"{one.name} against {report.normal.name}: AUROC of the combined score {ours.auroc:.4f} "
        f"{_interval(ours.auroc_interval)}, {verdict} the best baseline ({report.column(one.best_baseline).label}, "
        f"{result_of(one, one.best_baseline).auroc:.4f}; difference {one.auroc_over_baseline:+.4f} "
        f"{_interval((low, high), '+')}). Flagged: {flagged}."
    )


def _false_alarms(one: FalseAlarms) -> str:
    if one.share is None:
        return f"False alarms at alpha = {one.alpha:g}: the calibration is too small for any."
    low, high = one.interval
    where = "inside" if one.inside else "OUTSIDE"
    return (
        f"False alarms of the combined score at alpha = {one.alpha:g}: {percent(one.share)}, {where} the 99 % interval "
        f"{percent(low)} to {percent(high)}."
    )


def _interval(of: Interval, sign: str = "") -> str:
    return f"({of[0]:{sign}.4f} to {of[1]:{sign}.4f})"


def _roc(one: SetReport, labels: Sequence[str]) -> str:
    return roc_chart(one.curves, labels, f"ROC curves of {one.name}")


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment.get_template("report.html.jinja")
