# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""What `snf score` prints, a table or JSON, and the heat maps that it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from snf_client.resources.scores import Part, Result

STYLES = {"anomaly": "bold red", "normal": "green"}


class Output(Protocol):
    """Where results go."""

    def add(self, part: Part) -> None:
        """Takes results in, in their order."""
        ...

    def end(self) -> None:
        """Prints what is left."""
        ...


class Json:
    """One JSON document, written while the scoring goes on: memory does not grow with the number of images.

    A result is a line of its own. The model stands first, so that results wait until one of them has told it.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: list[str] = []
        self._begun = False
        self._comma = ""

    def add(self, part: Part) -> None:
        """Writes results."""
        texts = ["    " + one.model_dump_json(exclude_unset=True) for one in part.results]
        if not self._begun and part.model is None:
            self._waiting += texts
            return
        if not self._begun:
            self._begin({"model": part.model, "version": part.version, "calibration": part.calibration})
        for text in texts:
            self._write(text)

    def end(self) -> None:
        """Ends the document."""
        if not self._begun:
            self._begin({})
        sys.stdout.write("\n  ]\n}\n")

    def _begin(self, head: dict[str, str | int | None]) -> None:
        lines = [f'  "{name}": {json.dumps(value)},\n' for name, value in (head | {"count": self._count}).items()]
        sys.stdout.write("{\n" + "".join(lines) + '  "results": [')
        self._begun = True
        for text in self._waiting:
            self._write(text)
        self._waiting.clear()

    def _write(self, text: str) -> None:
        sys.stdout.write(f"{self._comma}\n{text}")
        self._comma = ","


class Table:
    """A table of all results, at the end."""

    def __init__(self) -> None:
        self._title: str | None = None
        self._rows: list[tuple[str, ...]] = []

    def add(self, part: Part) -> None:
        """Keeps what the table shows."""
        if part.model is not None:
            self._title = f"{part.model} version {part.version}"
        self._rows += map(_row, part.results)

    def end(self) -> None:
        """Prints the table."""
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=self._title)
        table.add_column("file", overflow="fold")
        for column in ("log-likelihood (nats)", "bits/dim", "p-value"):
            table.add_column(column, justify="right")
        table.add_column("verdict")
        for *cells, verdict in self._rows:
            style = STYLES.get(verdict, "yellow")
            # Paths are no markup, whatever brackets they have.
            table.add_row(*map(Text, cells), Text(verdict, style))
        Console().print(table)


class HeatMaps:
    """Writes the heat map of every image into a folder, and hands the results on without it."""

    def __init__(self, folder: Path, output: Output) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._output = output

    def add(self, part: Part) -> None:
        """Writes the pictures: the number of the image, then the name of its file."""
        self._output.add(part.with_results(map(self._without, part.results)))

    def end(self) -> None:
        """Ends the output."""
        self._output.end()

    def _without(self, one: Result) -> Result:
        from snf_client import heat_map_png

        if one.status != "ok" or one.heat_map is None:
            return one
        name = f"{one.index:05d}-{Path(one.filename or 'image').stem}.png"
        (self._folder / name).write_bytes(heat_map_png(one.heat_map))
        kept = one.model_fields_set - {"heat_map"}
        return type(one).model_construct(kept, **{field: getattr(one, field) for field in kept})


def _row(one: Result) -> tuple[str, ...]:
    if one.status != "ok":
        return one.filename or "", "", "", "", one.error.title
    p_value = f"{one.anomaly.p_value:.4g}"
    verdict = "anomaly" if one.anomaly.is_anomaly else "normal"
    return one.filename or "", f"{one.log_likelihood:.3f}", f"{one.bits_per_dim:.4f}", p_value, verdict
