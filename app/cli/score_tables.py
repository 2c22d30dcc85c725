# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Output of ``snf score``: a table or JSON, and heat maps as files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from snf_client.resources.scores import ImageResult, ScorePart
    from snf_client.schemas import ScoredImage

STYLES = {"anomaly": "bold red", "normal": "green"}


class ScoreOutput(Protocol):
    """Protocol of an output of ``snf score``: ``add`` is called for each batch of results, then ``end`` once."""

    def add(self, part: ScorePart) -> None:
        """Print the results of the next batch of images, or keep them until ``end`` is called."""
        ...

    def end(self) -> None:
        """Print what is missing after the last batch, such as the kept results or closing brackets."""
        ...


class JsonOutput:
    """Writer of scores to stdout as one JSON document, batch by batch, so that memory use does not grow.

    Each result is a line. The document begins with the model, so that results wait until it is known.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: list[str] = []
        self._started = False
        self._comma = ""

    def add(self, part: ScorePart) -> None:
        """Write a batch of results to stdout as JSON array elements, or keep them until a batch names the model."""
        texts = ["    " + result.model_dump_json(exclude_unset=True) for result in part.results]
        if not self._started and part.model is None:
            self._waiting += texts
            return
        if not self._started:
            self._start({"model": part.model, "version": part.version, "calibration": part.calibration})
        for text in texts:
            self._write(text)

    def end(self) -> None:
        """Write kept results, and the closing brackets of the JSON document, to stdout."""
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
    """Output of scores as one table in the terminal, printed after the last image."""

    def __init__(self) -> None:
        self._title: str | None = None
        self._rows: list[tuple[str, ...]] = []

    def add(self, part: ScorePart) -> None:
        """Keep file, log-likelihood, bits/dim, p-value, verdict and reason of each image of a batch as table rows."""
        if part.model is not None:
            self._title = f"{part.model} version {part.version}"
            if any(result.status == "ok" and result.kind == "feature_density" for result in part.results):
                self._title += ", log-likelihoods of features"
        self._rows += map(_row, part.results)

    def end(self) -> None:
        """Print one table with the rows of all batches."""
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=self._title)
        table.add_column("file", overflow="fold")
        for column in ("log-likelihood (nats)", "bits/dim", "p-value"):
            table.add_column(column, justify="right")
        table.add_column("verdict")
        more = {"strongest evidence": -2, "note": -1}
        shown = [place for place in more.values() if any(row[place] for row in self._rows)]
        for heading, place in more.items():
            if place in shown:
                table.add_column(heading, overflow="fold")
        for row in self._rows:
            *cells, verdict, _reason, _note = row
            style = STYLES.get(verdict, "yellow")
            # Paths may contain brackets, which are no markup.
            table.add_row(*map(Text, cells), Text(verdict, style), *(Text(row[place]) for place in shown))
        Console().print(table)


class HeatMapWriter:
    """Output that saves each image's heat map as a PNG file and passes the results to another output.

    Of the heat map itself only numbers, such as its threshold and regions, are passed on.
    """

    def __init__(self, folder: Path, output: ScoreOutput) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._output = output

    def add(self, part: ScorePart) -> None:
        """Save the heat map of each image of a batch as a PNG file, and pass its scores to the other output."""
        self._output.add(part.with_results(map(self._without, part.results)))

    def end(self) -> None:
        """Call ``end`` of the other output; all PNG files have been written before."""
        self._output.end()

    def _without(self, result: ImageResult) -> ImageResult:
        from snf_client import heat_map_png

        if result.status != "ok" or result.heat_map is None:
            return result
        name = f"{result.index:05d}-{Path(result.filename or 'image').stem}.png"
        (self._folder / name).write_bytes(heat_map_png(result.heat_map))
        heat_map = result.heat_map
        numbers = heat_map.model_fields_set - {"png", "npy"}
        brief = type(heat_map).model_construct(numbers, **{field: getattr(heat_map, field) for field in numbers})
        return result.model_copy(update={"heat_map": brief})


def preprocessing_note(result: ScoredImage) -> str:
    """Return what was done to a file before it was scored, and a warning about it, in words; empty if nothing was."""
    done = result.preprocessing
    if done is None:
        return ""
    converted = f"converted {done.converted}" if done.converted else None
    return "; ".join(filter(None, (*(done.notes or ()), converted, done.warning)))


def _row(result: ImageResult) -> tuple[str, ...]:
    name = result.filename or ""
    if result.status != "ok":
        return name, "", "", "", result.error.title, "", result.error.detail
    verdict = "anomaly" if result.anomaly.is_anomaly else "normal"
    return (
        name,
        f"{result.log_likelihood:.3f}",
        "" if result.bits_per_dim is None else f"{result.bits_per_dim:.4f}",
        f"{result.anomaly.p_value:.4g}",
        verdict,
        result.anomaly.reasons[0].text if result.anomaly.is_anomaly and result.anomaly.reasons else "",
        preprocessing_note(result),
    )
