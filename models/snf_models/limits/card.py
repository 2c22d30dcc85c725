"""Detection limits for people: as text, as a chart, and in the model card of a version. Free of torch."""

from __future__ import annotations

import logging

from snf_client.schemas.limits import LimitCurve, LimitRecord
from snf_models.artifacts.files import CARD, read_file
from snf_models.errors import ArtifactError
from snf_models.evaluation.report import template
from snf_models.registry.calibrations import OWN
from snf_models.registry.registry import Registry

FOUND_SHARE = 0.9
"""The share of defects that must be found."""


def limit_chart(record: LimitRecord) -> str:
    """Return a self-contained SVG of the found shares with 95 % bounds, the goal of 0.9, and a ring at each limit."""
    panels: dict[str, list[LimitCurve]] = {}
    for curve in record.curves:
        panels.setdefault(curve.shape, []).append(curve)
    return template("limits/chart.svg.jinja").render(
        record=record,
        panels=panels,
        contrasts=sorted({curve.contrast for curve in record.curves if curve.contrast is not None}),
        goal=FOUND_SHARE,
        description=_description(record),
    )


def _description(record: LimitRecord) -> str:
    limits = (f"{curve.label}: {limit_text(curve)}" for curve in record.curves)
    return "Share of found defects by size. Detection limits: " + ("; ".join(limits) or "not determinable")


def limit_text(curve: LimitCurve) -> str:
    """Return the limit as ``6 pixels`` or ``none up to 12 pixels``."""
    return f"none up to {curve.cells[-1].size} pixels" if curve.limit is None else f"{curve.limit} pixels"


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
