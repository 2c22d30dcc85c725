from __future__ import annotations

from rich.console import Console

from snf_app.cli.tables import TableColumn, print_table
from snf_client.schemas.limits import LimitCell, LimitRecord
from snf_models.limits.chart import limit_text


def print_limit(number: int, record: LimitRecord) -> None:
    """Print the limit and the shares found by size, for each shape and contrast, or why there is none."""
    console = Console()
    if record.not_determinable is None:
        _print_curves(record)
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


def _print_curves(record: LimitRecord) -> None:
    columns = [
        TableColumn("defect", fold=12),
        TableColumn("limit", right=True),
        TableColumn("at least", right=True),
        # Of many sizes the largest are left out first: nearly all such defects are found.
        *(TableColumn(str(size), right=True, drop=-size) for size in record.sizes),
    ]
    rows = []
    for curve in record.curves:
        cells = {cell.size: cell for cell in curve.cells}
        bound = "" if curve.lower is None else f"{100 * curve.lower:.1f} %"
        shares = (_share(cells.get(size), curve.limit) for size in record.sizes)
        rows.append((curve.label, limit_text(curve), bound, *shares))
    print_table(columns, rows, "found share in % by size in pixels")


def _share(cell: LimitCell | None, limit: int | None) -> str:
    if cell is None:
        return ""
    share = f"{100 * cell.share:.0f}"
    return share if limit is not None and cell.size >= limit else f"({share})"
