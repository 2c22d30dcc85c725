# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Tables that fit the width of the terminal by leaving out columns in a fixed order. No text is cut off."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rich.text import Text

    Cell: TypeAlias = str | Text

GAP = 2
"""Characters between two columns, of which the box draws one."""


@dataclass(frozen=True)
class TableColumn:
    """Heading and layout of one column of a table."""

    name: str
    right: bool = False  # aligned to the right
    fold: int | None = None  # least characters of cells that may break at spaces; None: one line, to be copied
    drop: int | None = None  # order in which columns are left out, the smallest first; None: it stays


def print_table(columns: Sequence[TableColumn], rows: Sequence[Sequence[Cell]], title: str | None = None) -> None:
    """Print a table that fits the terminal, and below it the names of the columns that did not fit."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    shown = [
        place
        for place, column in enumerate(columns)
        if any(row[place].plain for row in cells) or (column.drop is None and not cells)
    ]
    lines = {place: [line for row in cells for line in row[place].plain.splitlines()] for place in shown}
    widest = {place: _width(columns[place], lines[place]) for place in shown}
    words = {place: _width(columns[place], [word for line in lines[place] for word in line.split()]) for place in shown}
    dropped: list[int] = []
    for place in sorted((p for p in shown if columns[p].drop is not None), key=lambda p: columns[p].drop or 0):
        if sum(_least(columns, widest, words).values()) > _room(console.width, widest):
            dropped.append(place)
            del widest[place]
    widths = _shared(_least(columns, widest, words), widest, _room(console.width, widest))
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
        table.add_row(*(_broken_at_slashes(row[place], width) for place, width in widths.items()))
    if title is not None:
        console.print(Text(title), soft_wrap=True)
    console.print(table)
    if dropped:
        names = ", ".join(columns[place].name for place in sorted(dropped))
        console.print(Text(f"left out, as they do not fit: {names}", "dim"), soft_wrap=True)


def print_facts(facts: Mapping[str, Cell], title: str | None = None) -> None:
    """Print named values as a table of two columns without a header; empty values are left out."""
    shown = [(name, value) for name, value in facts.items() if str(value)]
    print_table((TableColumn(""), TableColumn("", fold=20)), shown, title)


def _width(column: TableColumn, lines: Sequence[str]) -> int:
    """Return the characters of the widest line of a column; a heading takes as many lines as it has words."""
    from rich.cells import cell_len

    return max([1, *map(cell_len, column.name.split()), *map(cell_len, lines)])


def _broken_at_slashes(text: Text, width: int) -> Text:
    """Break words that are wider than a column after slashes, where they have any."""
    from rich.text import Text

    cuts = []
    for word in re.finditer(rf"\S{{{width + 1},}}", text.plain):
        begin = word.start()
        ends = [word.start() + part.end() for part in re.finditer("[^/]*/|[^/]+$", word[0])]
        for end, following in pairwise(ends):
            if following - begin > width:
                cuts.append(end)
                begin = end
    return Text("\n").join(text.divide(cuts)) if cuts else text


def _room(width: int, widest: Mapping[int, int]) -> int:
    """Return the characters for the cells of all columns in a terminal of ``width`` characters."""
    return width - GAP * (len(widest) - 1)


def _least(columns: Sequence[TableColumn], widest: Mapping[int, int], words: Mapping[int, int]) -> dict[int, int]:
    """Return the characters that each column takes at least: its widest word, and not less than ``fold``."""
    return {place: max(words[place], min(width, columns[place].fold or width)) for place, width in widest.items()}


def _shared(least: Mapping[int, int], widest: Mapping[int, int], room: int) -> dict[int, int]:
    """Return widths from ``least`` to ``widest``; the widest columns are folded further where the room is too small."""
    widths = dict.fromkeys(least, 1)
    for wanted in (least, widest):
        rest = room - sum(widths.values())
        by_need = sorted(widths, key=lambda place: wanted[place] - widths[place])
        for number, place in enumerate(by_need):
            more = max(0, min(wanted[place] - widths[place], rest // (len(by_need) - number)))
            widths[place] += more
            rest -= more
    return widths
