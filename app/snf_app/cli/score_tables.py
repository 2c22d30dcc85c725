# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Protocol

from snf_app.cli.tables import TableColumn, print_table

if TYPE_CHECKING:
    from rich.text import Text

    from snf_client.schemas.scores import ScoredImage
    from snf_client.scores import ImageResult, ScorePart

COLUMNS = (
    TableColumn("file", fold=26),
    TableColumn("log-lik. (nats)", right=True, drop=3),
    TableColumn("bits/dim", right=True, drop=1),
    TableColumn("p-value", right=True),
    TableColumn("statistic", right=True, drop=2),
    TableColumn("verdict"),
    TableColumn("reason", fold=20, drop=4),
)


class ScoreOutput(Protocol):
    """Interface of an output: ``add`` is called for each batch of results, then ``end`` once."""

    def add(self, part: ScorePart) -> None:
        """Print the results of the next batch of images, or keep them until ``end`` prints them."""
        ...

    def end(self) -> None:
        """Print the rest after the last batch."""
        ...


class JsonOutput:
    """Output of one JSON document, batch by batch; it begins with the model, for which the first results wait."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: list[str] = []
        self._started = False
        self._comma = ""

    def add(self, part: ScorePart) -> None:
        texts = ["    " + result.model_dump_json(exclude_unset=True, ensure_ascii=True) for result in part.results]
        if not self._started and part.model is None:
            self._waiting += texts
            return
        if not self._started:
            self._start({"model": part.model, "version": part.version, "calibration": part.calibration})
        for text in texts:
            self._write(text)

    def end(self) -> None:
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
        self._rows: list[tuple[str | Text, ...]] = []

    def add(self, part: ScorePart) -> None:
        if part.model is not None:
            self._title = f"{part.model} version {part.version}"
            if any(result.status == "ok" and result.kind == "feature_density" for result in part.results):
                self._title += ", log-likelihoods of features"
        self._rows += map(_row, part.results)

    def end(self) -> None:
        print_table(COLUMNS, self._rows, self._title)


def preprocessing_note(result: ScoredImage) -> str:
    """Return what was done to an image file before scoring, and a warning about it; else ""."""
    done = result.preprocessing
    if done is None:
        return ""
    converted = f"converted {done.converted}" if done.converted else None
    return "; ".join(filter(None, (*(done.notes or ()), converted, done.warning)))


def _row(result: ImageResult) -> tuple[str | Text, ...]:
    from rich.text import Text

    name = result.filename or ""
    if result.status != "ok":
        return name, "", "", "", "", Text("not judged", "yellow"), result.error.detail
    anomaly = result.anomaly
    return (
        name,
        f"{result.log_likelihood:.3f}",
        "" if result.bits_per_dim is None else f"{result.bits_per_dim:.4f}",
        f"{anomaly.p_value:.4g}",
        f"{anomaly.statistic:.2f}",
        Text("anomaly", "bold red") if anomaly.is_anomaly else Text("normal", "green"),
        anomaly.reasons[0].text if anomaly.is_anomaly and anomaly.reasons else "",
    )
