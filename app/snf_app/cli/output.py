"""Tables that fit the terminal by leaving out columns in a fixed order, progress bars on stderr, and files."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from snf_app.cli.common import error_messages, fail
from snf_models.disk import write_atomically
from snf_runtime.errors import USAGE
from snf_worker.process_setup import user_umask

Cell: TypeAlias = str | int | Text | None
GAP = 2  # characters between two columns, of which the box draws one


@dataclass(frozen=True)
class TableColumn:
    """Heading, cells and layout of one column of a table."""

    name: str
    cell: Callable[[Any], Cell] | None = None  # of a row; None: a row is the sequence of its cells
    right: bool = False  # aligned to the right
    fold: int | None = None  # least characters of cells that may break at spaces; None: one line, to be copied
    drop: int | None = None  # order in which columns are left out, the smallest first; None: it stays

    def text(self, row: Any, place: int) -> Text:
        """Return the cell of a row; ``place`` is that of the column."""
        cell = row[place] if self.cell is None else self.cell(row)
        return cell if isinstance(cell, Text) else Text("" if cell is None else str(cell))


def print_table(columns: Sequence[TableColumn], rows: Iterable[Any], title: str | None = None) -> None:
    """Print a table that fits the terminal, and below it the names of the columns that did not fit."""
    console = Console()
    cells = [[column.text(row, place) for place, column in enumerate(columns)] for row in rows]
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
    shown = [(name, value) for name, value in facts.items() if value is not None and str(value)]
    print_table((TableColumn(""), TableColumn("", fold=20)), shown, title)


def _width(column: TableColumn, lines: Sequence[str]) -> int:
    """Return the characters of the widest line of a column; a heading takes as many lines as it has words."""
    return max([1, *map(cell_len, column.name.split()), *map(cell_len, lines)])


def _broken_at_slashes(text: Text, width: int) -> Text:
    """Break words that are wider than a column after slashes, where they have any."""
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


@contextmanager
def _bar(*columns: ProgressColumn) -> Iterator[Progress]:
    """Yield a progress bar on stderr, which is shown on a terminal alone."""
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar


@contextmanager
def images_bar(label: str, total: int, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function of newly finished images, negative for images to be done again; ``done`` were before."""
    rate = TextColumn("{task.fields[rate]:.0f} img/s")
    with _bar(TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(), rate, TimeRemainingColumn()) as bar:
        task = bar.add_task(label, total=total, completed=done, rate=0.0)
        started, before = time.monotonic(), done

        def advance(images: int) -> None:
            nonlocal done
            done += images
            bar.update(task, completed=done, rate=(done - before) / max(time.monotonic() - started, 1e-9))

        yield advance


@contextmanager
def bytes_bar(label: str, label_at_end: str = "checking the images") -> Iterator[Callable[[int, int], None]]:
    """Yield a function of the bytes done and of all bytes; the label changes once all are done."""
    columns = DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with _bar(TextColumn("{task.description}"), BarColumn(), *columns) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(
            task, completed=done, total=total, description=label if done < total else label_at_end
        )


@contextmanager
def labelled_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of the label, the steps done and the total steps."""
    with _bar(TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn()) as bar:
        task: TaskID | None = None

        def update(label: str, done: int, total: int) -> None:
            nonlocal task
            # Steps that were done before this command have no speed.
            task = bar.add_task("", completed=done) if task is None else task
            bar.update(task, completed=done, total=total, description=escape(label))

        yield update


@contextmanager
def events_bar() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function of a job's events: the last ``log`` is the label, ``metrics`` the progress."""
    label = ""
    with labelled_bar() as bar:

        def observe(event: dict[str, Any]) -> None:
            nonlocal label
            if event["event"] == "log":
                label = event["message"]
            elif event["event"] == "metrics":
                bar(label, event["step"], event["steps"])

        yield observe


@contextmanager
def spinner(label: str) -> Iterator[None]:
    with Console(stderr=True).status(label):
        yield


def text_of(value: float | datetime | None, form: str, missing: str = "") -> str:
    """Format a number or a time; None gives ``missing``."""
    return missing if value is None else format(value, form)


def duration(seconds: float | None) -> str:
    """Format seconds as ``h:mm:ss``, or ``m:ss`` below an hour; None gives ``-``."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there and holds something else.")]
ENDINGS = (".parquet", ".csv", ".jsonl")  # endings of tables of scores
ADVICE = "choose another name, or write over it with --force"


def check_new(out: Path | None, endings: Sequence[str], *, force: bool) -> None:
    """Exit with code 2 unless ``out`` has one of the endings, its folder exists, and it is new or ``force`` is set."""
    if out is None:
        return
    if out.suffix not in endings:
        expected = " or ".join(filter(None, (", ".join(endings[:-1]), endings[-1])))
        raise fail(f"--out: expected a file that ends in {expected}, got {out}", USAGE)
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise fail(f"--out: expected a file in a folder that exists, got {out}; create the folder first", USAGE)
    if out.exists() and not force:
        raise fail(f"--out: {out} exists already; {ADVICE}", USAGE)


def write_out(out: Path, content: bytes) -> None:
    """Write a file by the user's umask; exit with code 2 if the folder is not writable, 3 for other errors."""
    with error_messages(), user_umask():
        write_atomically(out.absolute(), content)
