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
    section = template("limits/section.md.jinja")
    return section.render(number=number, record=record, active=active, limit_text=limit_text)
