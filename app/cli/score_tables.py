# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Output of ``snf score``: a table or JSON, and heat maps as files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from snf_client.resources.scores import ImageResult, ScorePart

STYLES = {"anomaly": "bold red", "normal": "green"}


class ScoreOutput(Protocol):
    """Interface of an output format of ``snf score``: it receives results batch by batch."""

    def add(self, part: ScorePart) -> None:
        """Output the scores of the next batch of images."""
        ...

    def end(self) -> None:
        """Complete the output after the last batch."""
        ...


class JsonOutput:
    """Output of scores as a JSON document, written batch by batch to keep memory constant.

    Each result is a line. The document begins with the model, so that results wait until it is known.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: list[str] = []
        self._started = False
        self._comma = ""

    def add(self, part: ScorePart) -> None:
        """Write the scores of the next batch of images to stdout, as elements of the JSON array."""
        texts = ["    " + result.model_dump_json(exclude_unset=True) for result in part.results]
        if not self._started and part.model is None:
            self._waiting += texts
            return
        if not self._started:
            self._start({"model": part.model, "version": part.version, "calibration": part.calibration})
        for text in texts:
            self._write(text)

    def end(self) -> None:
        """Write the end of the JSON document."""
        if not self._started:
            self._start({})
        sys.stdout.write("\n  ]\n}\n")

    def _start(self, head: dict[str, str | int | None]) -> None:
        lines = [f'  "{name}": {json.dumps(value)},\n' for name, value in (head | {"count": self._count}).items()]
        sys.stdout.write("{\n" + "".join(lines) + '  "results": [')
        self._started = True
        for text in self._waiting:
            self._write(text)
        self._waiting.clear()

    def _write(self, text: str) -> None:
        sys.stdout.write(f"{self._comma}\n{text}")
        self._comma = ","


class TableOutput:
    """Output of scores as a table in the terminal, printed after the last image."""

    def __init__(self) -> None:
        self._title: str | None = None
        self._rows: list[tuple[str, ...]] = []

    def add(self, part: ScorePart) -> None:
        """Keep the scores of a batch of images as rows of the table."""
        if part.model is not None:
            self._title = f"{part.model} version {part.version}"
        self._rows += map(_row, part.results)

    def end(self) -> None:
        """Print the table of all scores."""
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
            # Paths may contain brackets, which are no markup.
            table.add_row(*map(Text, cells), Text(verdict, style))
        Console().print(table)


class HeatMapWriter:
    """Output that saves each image's heat map as a PNG file and passes the scores to another output."""

    def __init__(self, folder: Path, output: ScoreOutput) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._output = output

    def add(self, part: ScorePart) -> None:
        """Save the heat maps of a batch as PNG files, and pass its scores to the wrapped output."""
        self._output.add(part.with_results(map(self._without, part.results)))

    def end(self) -> None:
        """Complete the wrapped output."""
        self._output.end()

    def _without(self, result: ImageResult) -> ImageResult:
        from snf_client import heat_map_png

        if result.status != "ok" or result.heat_map is None:
            return result
        name = f"{result.index:05d}-{Path(result.filename or 'image').stem}.png"
        (self._folder / name).write_bytes(heat_map_png(result.heat_map))
        kept = result.model_fields_set - {"heat_map"}
        return type(result).model_construct(kept, **{field: getattr(result, field) for field in kept})


def _row(result: ImageResult) -> tuple[str, ...]:
    name = result.filename or ""
    if result.status != "ok":
        return name, "", "", "", result.error.title
    verdict = "anomaly" if result.anomaly.is_anomaly else "normal"
    return (
        name,
        f"{result.log_likelihood:.3f}",
        f"{result.bits_per_dim:.4f}",
        f"{result.anomaly.p_value:.4g}",
        verdict,
    )
