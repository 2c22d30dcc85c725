"""The report of an evaluation as one HTML file with inline charts, which loads no other. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from snf_client.schemas.evaluations import Curve, EvaluationReport, FalseAlarms, Histograms, Interval, Result, SetReport
from snf_runtime.errors import unattainable

CONTENT_SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The policy that keeps a browser from loading or running anything, whatever a name in the report contains."""
HEADLINE = ("combined", "family", "baseline")
"""Families of scores in the tables that are always open."""
PERCENT = 100


def render_html(report: EvaluationReport) -> str:
    """Return a self-contained page, in which user-supplied text is escaped."""
    return _template().render(
        report=report,
        policy=CONTENT_SECURITY_POLICY,
        summary=summary(report),
        datasets=[entry for entry in report.sets if entry.kind == "dataset"],
        corruptions=[entry for entry in report.sets if entry.kind == "corruption"],
        headline=HEADLINE,
        roc=_roc,
        histogram=lambda entry: histogram_chart(entry, f"Histograms of {entry.label}"),
        legend=legend,
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


def _roc(entry: SetReport, labels: Sequence[str]) -> str:
    return roc_chart(entry.curves, labels, f"ROC curves of {entry.name}")


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "alpha": "{:.4g}".format}
    return environment.get_template("report.html.jinja")


SIDE, WIDTH, HEIGHT = 320, 480, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 40
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2", "10 4", "4 1", "12 2 2 2", "6 2 1 2", "3 1 1 1")
"""Dash patterns, so that lines differ by more than their colour."""


def roc_chart(curves: Sequence[Curve], labels: Sequence[str], title: str) -> Markup:
    """Draw lines of the classes ``line-0``, ``line-1``, ..., as in the legend."""
    span = SIDE - LEFT - RIGHT, SIDE - TOP - BOTTOM
    parts = [_axes(SIDE, SIDE, "false-positive rate", "true-positive rate", (0.0, 0.5, 1.0), (0.0, 0.5, 1.0))]
    parts.append(Markup('<path class="chance" d="M{} {}L{} {}"/>').format(LEFT, SIDE - BOTTOM, SIDE - RIGHT, TOP))
    for number, curve in enumerate(curves):
        points = [(LEFT + x * span[0], SIDE - BOTTOM - y * span[1]) for x, y in curve.points]
        parts.append(line(points, number, labels[number]))
    return _figure(SIDE, SIDE, title, parts)


def histogram_chart(histograms: Histograms, title: str) -> Markup:
    """Draw histograms with equally wide bars, whatever their edges."""
    edges = histograms.edges
    bars = len(edges) - 1
    top = max((share for entry in histograms.sets for share in entry.shares), default=0.0) or 1.0
    span = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    ticks = (edges[0], edges[bars // 2], edges[-1])
    parts = [_axes(WIDTH, HEIGHT, histograms.label, "share of the images", ticks, (0.0, top / 2, top))]
    for number, entry in enumerate(histograms.sets):
        points = []
        for bar, share in enumerate(entry.shares):
            height = HEIGHT - BOTTOM - share / top * span[1]
            points += [(LEFT + edge / bars * span[0], height) for edge in (bar, bar + 1)]
        parts.append(line(points, number, entry.set))
    return _figure(WIDTH, HEIGHT, title, parts)


def legend(labels: Sequence[str]) -> Markup:
    items = [
        Markup('<li><svg width="34" height="10" aria-hidden="true">{}</svg> {}</li>').format(
            line([(1, 5), (33, 5)], number, None), label
        )
        for number, label in enumerate(labels)
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def _figure(width: int, height: int, title: str, parts: Iterable[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>').format(
        width, height, width, height, title, Markup("").join(parts)
    )


def path_data(points: Sequence[tuple[float, float]]) -> str:
    """Return the lines through points as the attribute ``d`` of a path."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def line(points: Sequence[tuple[float, float]], number: int, title: str | None = None) -> Markup:
    """Return a path of the classes ``line`` and ``line-<number>``, with dashes of its own."""
    style, name = number % len(DASHES), Markup("<title>{}</title>").format(title) if title is not None else ""
    return Markup('<path class="line line-{}" stroke-dasharray="{}" d="{}">{}</path>').format(
        style, DASHES[style], path_data(points), name
    )


def _axes(width: int, height: int, below: str, beside: str, across: Sequence[float], up: Sequence[float]) -> Markup:
    bottom, right = height - BOTTOM, width - RIGHT
    parts = [Markup('<path class="axis" d="M{} {}V{}H{}"/>').format(LEFT, TOP, bottom, right)]
    for place, anchor in enumerate(("start", "middle", "end")):
        x, y = LEFT + place / 2 * (right - LEFT), bottom - place / 2 * (bottom - TOP)
        parts.append(text(x, bottom + 14, f"{across[place]:.4g}", anchor))
        parts.append(text(LEFT - 4, y + 4, f"{up[place]:.2g}", "end"))
    parts.append(text((LEFT + right) / 2, bottom + 30, below, "middle"))
    parts.append(
        Markup('<text transform="translate(11 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
            (TOP + bottom) / 2, escape(beside)
        )
    )
    return Markup("").join(parts)


def text(x: float, y: float, words: str, anchor: str, kind: str = "") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, words)
