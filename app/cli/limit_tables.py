"""Table of a detection limit for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from models.artifacts.limits import LimitCell, LimitRecord
from models.limits.chart import limit_text

MIN_WIDTH = 100
"""Columns of the table at least: in a narrower terminal lines break, but no number is cut."""


def print_limit(number: int, record: LimitRecord) -> None:
    """Print the limit of each shape and contrast with the found shares by size, and what it was measured on."""
    console = Console()
    if record.not_determinable is None:
        Console(width=max(console.width, MIN_WIDTH)).print(_table(record))
    else:
        console.print(f"not determinable: {record.not_determinable}", markup=False, highlight=False)
    undamaged, (_, height, width) = record.undamaged, record.image_shape
    alarms = ""
    if undamaged.interval is not None:
        low, high = undamaged.interval
        alarms = f"; {undamaged.flagged} of {undamaged.images} are flagged without a defect ({low:.1%} to {high:.1%})"
    for line in (
        f"detection limit {number}: {record.images} good images of {record.dataset} ({record.part}), "
        f"{height}x{width} pixels (height x width){alarms}",
        f"found: p <= {record.alpha:g} by calibration {record.calibration}; limit: the smallest size from which on the "
        "95 % bound of the found share is at least 90 %",
        f"seed {record.seed}, {record.seconds:.0f} s; shares of sizes below the limit stand in brackets",
    ):
        console.print(f"- {line}", markup=False, highlight=False)


def _table(record: LimitRecord) -> Table:
    table = Table(title="found share in % by size in pixels", title_justify="left")
    table.add_column("defect", no_wrap=True)
    table.add_column("limit", justify="right", no_wrap=True)
    table.add_column("at least", justify="right", no_wrap=True)
    for size in record.sizes:
        table.add_column(str(size), justify="right", no_wrap=True)
    for curve in record.curves:
        cells = {cell.size: cell for cell in curve.cells}
        table.add_row(
            curve.label,
            limit_text(curve),
            "" if curve.lower is None else f"{100 * curve.lower:.1f} %",
            *(_share(cells.get(size), curve.limit) for size in record.sizes),
        )
    return table


def _share(cell: LimitCell | None, limit: int | None) -> str:
    if cell is None:
        return ""
    share = f"{100 * cell.share:.0f}"
    return share if limit is not None and cell.size >= limit else f"({share})"
