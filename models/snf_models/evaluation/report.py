"""The report of an evaluation as one HTML file with inline charts, which loads no other file. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

from snf_client.schemas.evaluations import EvaluationReport, FalseAlarms, Interval, Result, SetReport
from snf_runtime.errors import unattainable

CONTENT_SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The policy that keeps a browser from loading or running anything, whatever a name in the report contains."""
HEADLINE = ("combined", "family", "baseline")
"""Families of scores in the tables that are always open."""
PERCENT = 100


def render_html(report: EvaluationReport) -> str:
    """Return a self-contained page, in which user-supplied text is escaped."""
    return template("evaluation/report.html.jinja").render(
        report=report,
        policy=CONTENT_SECURITY_POLICY,
        summary=summary(report),
        datasets=[entry for entry in report.sets if entry.kind == "dataset"],
        corruptions=[entry for entry in report.sets if entry.kind == "corruption"],
        headline=HEADLINE,
        result_of=result_of,
        labels_of=lambda entry: [report.column(curve.score).label for curve in entry.curves],
    )


def summary(report: EvaluationReport) -> list[str]:
    """Return the main results as sentences."""
    sentences = [_against(report, entry) for entry in report.sets if entry.kind == "dataset"]
    faults = [entry for entry in report.sets if entry.kind == "corruption"]
    if faults:
        better = sum(entry.auroc_over_baseline_interval[0] > 0 for entry in faults)
        worse = sum(entry.auroc_over_baseline_interval[1] < 0 for entry in faults)
        sentences.append(
            f"Of {len(faults)} graded faults the combined score finds {better} better than the best baseline of each, "
            f"and {worse} worse; for the others the interval of the difference includes zero."
        )
    return [*sentences, *map(_false_alarms, report.columns[0].false_alarms)]


def result_of(entry: SetReport, score: str) -> Result:
    return next(result for result in entry.results if result.score == score)


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share as text in per cent.

    >>> percent(0.0123), percent(None)
    ('1.23 %', 'not attainable')
    """
    return "not attainable" if share is None else f"{PERCENT * share:.{digits}f} %"


def _against(report: EvaluationReport, entry: SetReport) -> str:
    ours = result_of(entry, report.columns[0].name)
    low, high = entry.auroc_over_baseline_interval
    verdict = "better than" if low > 0 else "worse than" if high < 0 else "not told apart from"
    rates = ", ".join(f"{percent(rate.share)} at alpha = {rate.alpha:.4g}" for rate in ours.detected)
    return (
        f"{entry.name} against {report.normal.name}: AUROC of the combined score {ours.auroc:.4f} "
        f"{_interval(ours.auroc_interval)}, {verdict} the best baseline ({report.column(entry.best_baseline).label}, "
        f"{result_of(entry, entry.best_baseline).auroc:.4f}; difference {entry.auroc_over_baseline:+.4f} "
        f"{_interval((low, high), '+')}). Flagged: {rates}."
    )


def _false_alarms(entry: FalseAlarms) -> str:
    if entry.share is None:
        return f"{unattainable(entry.alpha, entry.calibration_images)}."
    low, high = entry.interval
    where = "inside" if entry.inside else "OUTSIDE"
    return (
        f"False alarms of the combined score at alpha = {entry.alpha:.4g}: {percent(entry.share)}, {where} the "
        f"99 % interval {percent(low)} to {percent(high)}."
    )


def _interval(of: Interval, sign: str = "") -> str:
    return f"({of[0]:{sign}.4f} to {of[1]:{sign}.4f})"


def outline(shares: Sequence[float], top: float) -> list[tuple[float, float]]:
    """Return the corners of the bars of a histogram, as shares of its width and height."""
    return [((bar + side) / len(shares), share / top) for bar, share in enumerate(shares) for side in (0, 1)]


@cache
def template(name: str) -> Template:
    """Return a template by its path in this package; all text that it gets is escaped, but in Markdown."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1]),
        autoescape=select_autoescape(disabled_extensions=("md.jinja",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "alpha": "{:.4g}".format}
    environment.globals["outline"] = outline
    return environment.get_template(name)
