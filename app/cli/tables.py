# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Tables that fit the width of the terminal by leaving out columns in a fixed order.

No text is cut off.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rich.text import Text

    Cell: TypeAlias = str | Text

GAP = 2
"""Characters between two columns, of which the box draws one."""


@dataclass(frozen=True)
class TableColumn:
    """Heading and layout of one column of a table that is printed in the terminal.

    Attributes:
        name: The heading.
        right: Whether the cells are aligned to the right.
        fold: Characters below which the column never gets; longer cells go on in the next line. None: each cell is one
            line, so that it can be copied.
        drop: Place in the order in which columns are left out of a table that is too wide, the smallest first; None for
            a column that always stays.
    """

    name: str
    right: bool = False
    fold: int | None = None
    drop: int | None = None


def print_table(columns: Sequence[TableColumn], rows: Sequence[Sequence[Cell]], title: str | None = None) -> None:
    """Print a table on stdout that is no wider than the terminal.

    A line below the table names the columns that did not fit.

    Columns that may be left out are, too, where all of their cells are empty.

    Args:
        columns: The columns; without a header if all their names are empty.
        rows: The cells of each row, as many as columns.
        title: A line above the table.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    shown = [
        place for place, column in enumerate(columns) if column.drop is None or any(row[place].plain for row in cells)
    ]
    widest = {place: _width(columns[place], [row[place] for row in cells]) for place in shown}
    dropped: list[int] = []
    for place in sorted((p for p in shown if columns[p].drop is not None), key=lambda p: columns[p].drop or 0):
        if sum(_least(columns, widest).values()) > _room(console.width, widest):
            dropped.append(place)
            del widest[place]
    widths = _shared(_least(columns, widest), widest, _room(console.width, widest))
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, GAP - 1, 0, 0),
        pad_edge=False,
        show_header=any(column.name for column in columns),
    )
    for place, width in widths.items():
        column = columns[place]
        heading = "\n".join(textwrap.wrap(column.name, width))
        table.add_column(heading, justify="right" if column.right else "left", overflow="fold", width=width)
    for row in cells:
        table.add_row(*(row[place] for place in widths))
    if title is not None:
        console.print(Text(title), soft_wrap=True)
    console.print(table)
    if dropped:
        names = ", ".join(columns[place].name for place in sorted(dropped))
        console.print(Text(f"left out, as they do not fit: {names}", "dim"), soft_wrap=True)


def print_facts(facts: Mapping[str, Cell], title: str | None = None) -> None:
    """Print named values, such as the details of a job, as a terminal table of two columns.

    It has no header. Empty values are left out.
    """
    shown = [(name, value) for name, value in facts.items() if str(value)]
    print_table((TableColumn(""), TableColumn("", fold=20)), shown, title)


def _width(column: TableColumn, cells: Sequence[Text]) -> int:
    """Return the characters of a column's widest line; a heading takes as many lines as it has words."""
    from rich.cells import cell_len

    lines = [line for cell in cells for line in cell.plain.splitlines()]
    return max([1, *map(cell_len, column.name.split()), *map(cell_len, lines)])


def _room(width: int, widest: Mapping[int, int]) -> int:
    """Return the characters for the cells of all columns in a terminal of ``width`` characters."""
    return width - GAP * (len(widest) - 1)


def _least(columns: Sequence[TableColumn], widest: Mapping[int, int]) -> dict[int, int]:
    """Return the characters that each column takes at least."""
    return {place: min(width, columns[place].fold or width) for place, width in widest.items()}


def _shared(least: Mapping[int, int], widest: Mapping[int, int], room: int) -> dict[int, int]:
    """Return the width of each column: at least ``least`` and at most ``widest``, in a room of characters.

    Where even the least widths do not fit, the widest columns are folded further.
    """
    widths = dict.fromkeys(least, 1)
    for wanted in (least, widest):
        rest = room - sum(widths.values())
        by_need = sorted(widths, key=lambda place: wanted[place] - widths[place])
        for number, place in enumerate(by_need):
            more = max(0, min(wanted[place] - widths[place], rest // (len(by_need) - number)))
            widths[place] += more
            rest -= more
    return widths
