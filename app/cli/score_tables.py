# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Output of ``snf score`` on stdout: a table or JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Protocol

from app.cli.tables import TableColumn, print_table

if TYPE_CHECKING:
    from rich.text import Text

    from snf_client.resources.scores import ImageResult, ScorePart
    from snf_client.schemas import ScoredImage

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
    """Interface for the output of ``snf score`` results, for example as a table or as JSON.

    ``add`` is called for each batch of results, then ``end`` once.
    """

    def add(self, part: ScorePart) -> None:
        """Print the results of the next batch of images, or keep them until ``end`` prints them.

        JSON is printed as soon as the model is known, a table in ``end``.
        """
        ...

    def end(self) -> None:
        """Print the rest of the output after the last batch of images, such as closing brackets or kept results."""
        ...


class JsonOutput:
    """Output of ``snf score`` that writes its results to stdout as one JSON document.

    It is written batch by batch, so that memory use does not grow.

    Each result is a line. The document begins with the model, so that results wait until it is known.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: list[str] = []
        self._started = False
        self._comma = ""

    def add(self, part: ScorePart) -> None:
        """Write the results of a batch of images to stdout as JSON.

        They are elements of an array. They are kept in memory until a batch names the model.
        """
        texts = ["    " + result.model_dump_json(exclude_unset=True, ensure_ascii=True) for result in part.results]
        if not self._started and part.model is None:
            self._waiting += texts
            return
        if not self._started:
            self._start({"model": part.model, "version": part.version, "calibration": part.calibration})
        for text in texts:
            self._write(text)

    def end(self) -> None:
        """Write the rest of the JSON document to stdout after the last batch of images.

        It consists of kept results and the closing brackets.
        """
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
        """Keep the results of a batch of images as table rows until ``end`` prints them.

        A row has file, scores and verdict of an image, and for an anomaly the strongest reason. For an image that was
        not judged it has the error instead of scores.
        """
        if part.model is not None:
            self._title = f"{part.model} version {part.version}"
            if any(result.status == "ok" and result.kind == "feature_density" for result in part.results):
                self._title += ", log-likelihoods of features"
        self._rows += map(_row, part.results)

    def end(self) -> None:
        """Print the results of all batches of images as one table."""
        print_table(COLUMNS, self._rows, self._title)


def preprocessing_note(result: ScoredImage) -> str:
    """Return a text that tells how an image file was preprocessed before it was scored.

    A warning about the file is included. The text is empty if there is nothing to say.
    """
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
