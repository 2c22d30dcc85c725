"""Two small charts as inline SVG: nothing is fetched, and colours follow the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from models.evaluation.schema import Curve, Histograms

SIDE, WIDTH, HEIGHT = 320, 480, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 40
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2", "10 4", "4 1", "12 2 2 2")
"""A line is told by its dashes as well as by its colour."""


def roc_chart(curves: Sequence[Curve], labels: Sequence[str], title: str) -> Markup:
    """Return ROC curves in a square, one line a curve, of class ``line-0``, ``line-1``, ... as in its legend."""
    span = SIDE - LEFT - RIGHT, SIDE - TOP - BOTTOM
    parts = [_axes(SIDE, SIDE, "false-positive rate", "true-positive rate", (0.0, 1.0), (0.0, 1.0))]
    parts.append(Markup('<path class="chance" d="M{} {}L{} {}"/>').format(LEFT, SIDE - BOTTOM, SIDE - RIGHT, TOP))
    for number, curve in enumerate(curves):
        points = [(LEFT + x * span[0], SIDE - BOTTOM - y * span[1]) for x, y in curve.points]
        parts.append(_line(points, number, labels[number]))
    return _figure(SIDE, SIDE, title, parts)


def histogram_chart(histograms: Histograms, title: str) -> Markup:
    """Return the outlines of histograms that share their edges, one a set."""
    edges = histograms.edges
    low, high = edges[0], edges[-1]
    top = max((share for one in histograms.sets for share in one.shares), default=0.0) or 1.0
    span = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = [_axes(WIDTH, HEIGHT, histograms.label, "share of the images", (low, high), (0.0, top))]
    for number, one in enumerate(histograms.sets):
        points = []
        for share, start, stop in zip(one.shares, edges, edges[1:], strict=False):
            height = HEIGHT - BOTTOM - share / top * span[1]
            points += [(LEFT + (edge - low) / (high - low) * span[0], height) for edge in (start, stop)]
        parts.append(_line(points, number, one.set))
    return _figure(WIDTH, HEIGHT, title, parts)


def legend(labels: Sequence[str]) -> Markup:
    """Return the key to the lines of a chart."""
    items = [
        Markup('<li><svg width="34" height="10" aria-hidden="true">{}</svg> {}</li>').format(
            _line([(1, 5), (33, 5)], number, None), label
        )
        for number, label in enumerate(labels)
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def _figure(width: int, height: int, title: str, parts: Iterable[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>').format(
        width, height, width, height, title, Markup("").join(parts)
    )


def _line(points: Sequence[tuple[float, float]], number: int, title: str | None) -> Markup:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    name = Markup("<title>{}</title>").format(title) if title is not None else Markup("")
    return Markup('<path class="line line-{}" stroke-dasharray="{}" d="{}">{}</path>').format(
        number % len(DASHES), DASHES[number % len(DASHES)], path, name
    )


def _axes(
    width: int, height: int, below: str, beside: str, across: tuple[float, float], up: tuple[float, float]
) -> Markup:
    bottom, right = height - BOTTOM, width - RIGHT
    parts = [Markup('<path class="axis" d="M{} {}V{}H{}"/>').format(LEFT, TOP, bottom, right)]
    for share in (0.0, 0.5, 1.0):
        x, y = LEFT + share * (right - LEFT), bottom - share * (bottom - TOP)
        anchor = ("start", "middle", "end")[round(2 * share)]
        parts.append(_text(x, bottom + 14, f"{across[0] + share * (across[1] - across[0]):.4g}", anchor))
        parts.append(_text(LEFT - 4, y + 4, f"{up[0] + share * (up[1] - up[0]):.2g}", "end"))
    parts.append(_text((LEFT + right) / 2, bottom + 30, below, "middle"))
    parts.append(
        Markup('<text transform="translate(11 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
            (TOP + bottom) / 2, escape(beside)
        )
    )
    return Markup("").join(parts)


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(f"{x:.1f}", f"{y:.1f}", anchor, words)
