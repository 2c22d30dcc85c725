"""Detection limits for people: as text, as a chart, and in the model card of a version. Free of torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from markupsafe import Markup

from snf_client.schemas.limits import LimitCurve, LimitRecord
from snf_models.artifacts.files import CARD, read_file
from snf_models.errors import ArtifactError
from snf_models.evaluation.report import line, path_data, text
from snf_models.registry.calibrations import OWN
from snf_models.registry.registry import Registry

FOUND_SHARE = 0.9
"""The share of defects that must be found."""
COLUMNS = 2
WIDTH, HEIGHT = 310, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 30, 42
LEGEND = 26
STYLE = Markup(
    "<style>svg{color-scheme:light dark;--ink:#1c2430;--paper:#fff;--a:#1f5fbf;--b:#b3441e;--c:#2b7a3d}"
    "@media(prefers-color-scheme:dark){svg{--ink:#e4e8ee;--paper:#161b22;--a:#7fb2ff;--b:#ff9d76;--c:#7fd08f}}"
    ".paper{fill:var(--paper)}text{font:11px sans-serif;fill:var(--ink)}.title{font-weight:bold}"
    ".axis{stroke:var(--ink);fill:none}.goal{stroke:var(--ink);stroke-dasharray:3 3;opacity:.6}"
    ".l0{--line:var(--a)}.l1{--line:var(--b)}.l2{--line:var(--c)}"
    ".line{stroke:var(--line);stroke-width:2;fill:none}.bounds{stroke:var(--line);opacity:.6}.band{fill:var(--line);opacity:.15}.dot{fill:var(--line)}"
    ".limit{fill:var(--paper);stroke:var(--line);stroke-width:2.5}</style>"
)


def limit_chart(record: LimitRecord) -> str:
    """Return a self-contained SVG of the found shares with 95 % bounds, the goal of 0.9, and a ring at each limit."""
    shapes = list(dict.fromkeys(curve.shape for curve in record.curves))
    contrasts = sorted({curve.contrast for curve in record.curves if curve.contrast is not None})
    rows = -(-len(shapes) // COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT + LEGEND
    parts = [STYLE, Markup('<rect class="paper" width="100%" height="100%"/>')]
    for place, shape in enumerate(shapes):
        curves = [curve for curve in record.curves if curve.shape == shape]
        x, y = place % COLUMNS * WIDTH, place // COLUMNS * HEIGHT
        panel = _panel(shape.replace("-", " "), curves, record.sizes, contrasts)
        parts.append(Markup('<g transform="translate({} {})">{}</g>').format(x, y, panel))
    if record.not_determinable is not None:
        parts.append(text(10, 17, "not determinable", "start"))
    parts += _legend(contrasts, height - LEGEND / 2 + 4)
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" width="{}" height="{}" role="img" '
            'aria-label="{}">{}</svg>'
        ).format(width, height, width, height, _description(record), Markup("").join(parts))
    )


def _panel(title: str, curves: Sequence[LimitCurve], sizes: Sequence[int], contrasts: Sequence[int]) -> Markup:
    span = WIDTH - LEFT - RIGHT
    place_of = {size: LEFT + span * (place + 0.5) / len(sizes) for place, size in enumerate(sizes)}
    parts = [
        text(LEFT, 17, title, "start", "title"),
        Markup('<path class="axis" d="M{} {}V{}H{}"/>').format(LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT),
        Markup('<path class="goal" d="M{} {:.1f}H{}"/>').format(LEFT, _y(FOUND_SHARE), WIDTH - RIGHT),
        *(text(place_of[size], HEIGHT - BOTTOM + 15, str(size), "middle") for size in sizes),
        *(text(LEFT - 5, _y(share) + 4, f"{share:g}", "end") for share in (0, 0.5, FOUND_SHARE)),
        text(LEFT + span / 2, HEIGHT - BOTTOM + 32, "size, pixels", "middle"),
        Markup('<text transform="translate(12 {}) rotate(-90)" text-anchor="middle">found share</text>').format(
            (TOP + HEIGHT - BOTTOM) / 2
        ),
    ]
    for curve in curves:
        number = 0 if curve.contrast is None else contrasts.index(curve.contrast)
        above = [(place_of[cell.size], _y(cell.upper)) for cell in curve.cells]
        below = [(place_of[cell.size], _y(cell.lower)) for cell in reversed(curve.cells)]
        points = [(place_of[cell.size], _y(cell.share)) for cell in curve.cells]
        bounds = "".join(f"M{x:.1f} {y:.1f}V{low:.1f}" for (x, y), (_, low) in zip(above, reversed(below), strict=True))
        marks = [
            Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(
                "limit" if cell.size == curve.limit else "dot", *point, 5 if cell.size == curve.limit else 2.5
            )
            for cell, point in zip(curve.cells, points, strict=True)
        ]
        parts.append(
            Markup(
                '<g class="l{}"><title>{}</title><path class="band" d="{}Z"/><path class="bounds" d="{}"/>{}{}</g>'
            ).format(
                number % 3, curve.label, path_data(above + below), bounds, line(points, number), Markup("").join(marks)
            )
        )
    return Markup("").join(parts)


def _legend(contrasts: Sequence[int], y: float) -> list[Markup]:
    step = (COLUMNS * WIDTH - LEFT) / max(len(contrasts), 3)
    return [
        Markup('<g class="l{}">{}</g>{}').format(
            number % 3,
            line([(LEFT + number * step, y - 4), (LEFT + number * step + 34, y - 4)], number),
            text(LEFT + number * step + 40, y, f"contrast {contrast} grey levels", "start"),
        )
        for number, contrast in enumerate(contrasts)
    ]


def _description(record: LimitRecord) -> str:
    limits = (f"{curve.label}: {limit_text(curve)}" for curve in record.curves)
    return "Share of found defects by size. Detection limits: " + ("; ".join(limits) or "not determinable")


def limit_text(curve: LimitCurve) -> str:
    """Return the limit as ``6 pixels`` or ``none up to 12 pixels``."""
    return f"none up to {curve.cells[-1].size} pixels" if curve.limit is None else f"{curve.limit} pixels"


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


log = logging.getLogger(__name__)


def card_text(registry: Registry, name: str, version: int) -> str:
    """Return the card as Markdown, also for damaged calibrations; raise ``ArtifactError`` if there is none."""
    text = read_file(registry.with_calibration(name, version, OWN).path, CARD).decode(errors="replace")
    try:
        active = registry.calibrations(name, version).active()
    except ArtifactError as problem:
        log.warning("the card of %s:%d is without its detection limit: %s", name, version, problem.detail)
        return text
    best = registry.limits(name, version).best(active)
    return text if best is None else f"{text.rstrip()}\n\n{limit_section(*best, active)}"


def limit_section(number: int, record: LimitRecord, active: int) -> str:
    """Return Markdown on a limit with everything that it depends on; ``active`` is the calibration in use."""
    _, height, width = record.image_shape
    undamaged = record.undamaged
    alarms = "" if undamaged.share is None else f", {undamaged.flagged} of them are flagged without a defect"
    if undamaged.interval is not None:
        alarms += " (95 % interval {:.1%} to {:.1%})".format(*undamaged.interval)
    lines = [
        "## Detection limit",
        "",
        *other_calibration(record, active),
        f"Defects were drawn into {record.images} good images of {record.dataset} ({record.part}){alarms}. A defect is "
        f"found if the p-value of its image is at most {record.alpha:g}, by calibration {record.calibration} "
        f"({record.calibration_images} images). The limit is the smallest size from which on at least 90 % are found, "
        "with a confidence of 95 %.",
        "",
        *_table(record),
        f"Sizes are pixels of the model's images ({height}x{width}, height x width): {_numbers(record.sizes)}. "
        f"Contrasts are grey levels: {_numbers(record.contrasts)}; a hole is black, a missing part has the mean of its "
        f"surroundings. Places, angles and signs come from seed {record.seed}. Real defects differ from these.",
        "",
        f"Measured {record.created:%Y-%m-%d} in {record.seconds:.0f} seconds; images {record.dataset_digest[:16]}, "
        f"weights {record.weights_sha256[:16]}.",
    ]
    if record.curves:
        lines += ["", f"![Share of found defects by size](limits/{number}/chart)"]
    return "\n".join(lines) + "\n"


def other_calibration(record: LimitRecord, active: int) -> list[str]:
    """Return a warning in Markdown lines, if the limit was measured with another calibration."""
    if record.calibration == active:
        return []
    return [
        f"**This limit is of calibration {record.calibration}; calibration {active} is in use now. Measure it again.**",
        "",
    ]


def _table(record: LimitRecord) -> list[str]:
    if record.not_determinable is not None:
        return [f"**Not determinable**: {record.not_determinable}.", ""]
    rows = ["| defect | limit | found at the limit | at least |", "|---|---|---|---|"]
    return [*rows, *(_row(curve) for curve in record.curves), ""]


def _row(curve: LimitCurve) -> str:
    cell = next((cell for cell in curve.cells if cell.size == (curve.limit or curve.cells[-1].size)), None)
    assert cell is not None  # the largest size is always measured
    where = "" if curve.limit is not None else f" at {cell.size} pixels"
    return f"| {curve.label} | {limit_text(curve)} | {cell.found} of {cell.images}{where} | {100 * cell.lower:.1f} % |"


def _numbers(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))
