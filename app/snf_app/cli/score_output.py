"""Output of ``snf score``: JSON, a table, remarks and heat maps, and the model that judges."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.text import Text

from snf_app.cli.common import fail, read_settings
from snf_app.cli.output import TableColumn, print_table, text_of
from snf_app.cli.service import Session
from snf_client import heat_map_png
from snf_client.schemas.models import ModelDetail
from snf_client.schemas.scores import ScoredImage
from snf_client.scores import ImageResult, ScorePart
from snf_models.disk import make_folder
from snf_models.registry.calibrations import gradient_warning
from snf_models.registry.registry import ModelVersion, Registry
from snf_runtime.errors import FAILED, USAGE
from snf_worker.process_setup import user_umask

COLUMNS = (
    TableColumn("file", fold=26),
    TableColumn("log-lik. (nats)", right=True, drop=3),
    TableColumn("bits/dim", right=True, drop=1),
    TableColumn("p-value", right=True),
    TableColumn("statistic", right=True, drop=2),
    TableColumn("verdict"),
    TableColumn("reason", fold=20, drop=4),
)
PICTURES = {"heat_map": {"png", "layer", "npy"}}  # members of results that are written as files


class JsonOutput:
    """Output of one JSON document, batch by batch; it begins with the model, for which the first results wait."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: list[str] = []
        self._started = False
        self._comma = ""

    def add(self, part: ScorePart) -> None:
        """Print the results of the next batch of images, or keep them until the model is known."""
        self._waiting += (
            "    " + result.model_dump_json(exclude_unset=True, exclude=PICTURES, ensure_ascii=True)
            for result in part.results
        )
        if part.model is not None and not self._started:
            self._start({"model": part.model, "version": part.version, "calibration": part.calibration})
        if self._started:
            self._write()

    def end(self) -> None:
        """Print the rest after the last batch."""
        if not self._started:
            self._start({})
        self._write()
        sys.stdout.write("\n  ]\n}\n")

    def _start(self, head: dict[str, str | int | None]) -> None:
        lines = [f'  "{name}": {json.dumps(value)},\n' for name, value in (head | {"count": self._count}).items()]
        sys.stdout.write("{\n" + "".join(lines) + '  "results": [')
        self._started = True

    def _write(self) -> None:
        for text in self._waiting:
            sys.stdout.write(f"{self._comma}\n{text}")
            self._comma = ","
        self._waiting.clear()


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
    name = result.filename or ""
    if result.status != "ok":
        return name, "", "", "", "", Text("not judged", "yellow"), result.error.detail
    anomaly = result.anomaly
    return (
        name,
        f"{result.log_likelihood:.3f}",
        text_of(result.bits_per_dim, ".4f"),
        f"{anomaly.p_value:.4g}",
        f"{anomaly.statistic:.2f}",
        Text("anomaly", "bold red") if anomaly.is_anomaly else Text("normal", "green"),
        anomaly.reasons[0].text if anomaly.is_anomaly and anomaly.reasons else "",
    )


MAX_LINES = 5
MAX_NAMES = 3


class Remarks:
    """Collection of remarks about scored files, such as conversions and warnings, grouped by text."""

    def __init__(self) -> None:
        self._files: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, text: str | None, name: str) -> None:
        """Add a remark on the file ``name``; ignore a ``text`` that is None or empty."""
        if not text:
            return
        self._counts[text] = self._counts.get(text, 0) + 1
        names = self._files.setdefault(text, [])
        if len(names) < MAX_NAMES:
            names.append(name)

    @property
    def lines(self) -> list[str]:
        """The five most frequent remarks, each with up to three files, and the number of further ones."""
        frequent = sorted(self._counts, key=lambda text: -self._counts[text])
        lines = [self._line(text) for text in frequent[:MAX_LINES]]
        if len(frequent) > MAX_LINES:
            lines.append(f"and {len(frequent) - MAX_LINES} other remarks; --json and --out have those of each file")
        return lines

    def _line(self, text: str) -> str:
        count, names = self._counts[text], self._files[text]
        more = f" and {count - len(names)} more" if count > len(names) else ""
        return f"{text}: {', '.join(names)}{more}"


def print_notes(notes: Iterable[str], *, to_stderr: bool) -> None:
    for note in notes:
        typer.echo(f"note: {note}", err=to_stderr)


MAX_NAME_BYTES = 255  # longest name of a file on usual file systems, bytes


def file_name(index: int, image: str) -> str:
    """Return the PNG file name of an image's heat map, made of the image's index and name.

    A name that would be too long for a file is cut.

    >>> file_name(7, "lot-3/plate.jpg")
    '00007-plate.png'
    """
    start, end = f"{index:05d}-", ".png"
    stem = Path(image).stem.encode()[: MAX_NAME_BYTES - len(start) - len(end)].decode(errors="ignore")
    return f"{start}{stem}{end}"


class HeatMapFolder:
    """Folder of heat maps as PNG files; exit with code 2 if it holds earlier ones, unless ``force`` is set."""

    def __init__(self, folder: Path, *, force: bool) -> None:
        if folder.exists() and not folder.is_dir():
            raise fail(f"--explain: expected a folder for the heat maps, got the file {folder}", USAGE)
        present = folder.iterdir() if folder.exists() else ()
        self._earlier = [path for path in present if re.match("[0-9]{5,}-", path.name) and path.suffix == ".png"]
        if self._earlier and not force:
            advice = "choose another folder, or delete them with --force"
            raise fail(f"--explain: {folder} holds heat maps already, such as {self._earlier[0].name}; {advice}", USAGE)
        self._folder = folder

    def write(self, results: Iterable[ImageResult]) -> None:
        # Not before: a command that is refused leaves the folder as it is.
        while self._earlier:
            self._earlier.pop().unlink()
        with user_umask():
            make_folder(self._folder)
            for result in results:
                if result.status == "ok" and result.heat_map is not None:
                    name = file_name(result.index, result.filename or "image")
                    (self._folder / name).write_bytes(heat_map_png(result.heat_map))


@dataclass(frozen=True)
class JudgingModel:
    """Model version and calibration that a command uses to judge images."""

    ref: str  # ``name:version``
    calibration: int
    warnings: tuple[str, ...] = ()  # sentences: why it is unfit, drift of images, and about the calibration

    @property
    def label(self) -> str:
        """Text that names the model version and the number of its calibration, for messages.

        >>> JudgingModel("digits:2", 1).label
        'digits:2 with calibration 1'
        """
        return f"{self.ref} with calibration {self.calibration}"

    def check_scores(self, part: ScorePart) -> None:
        if part.calibration not in (None, self.calibration):
            raise fail(
                f"expected scores of {self.label}, got some of calibration {part.calibration}: another one was "
                "activated meanwhile; repeat the command",
                FAILED,
            )

    @classmethod
    def of_version(cls, version: ModelVersion) -> JudgingModel:
        ref = f"{version.name}:{version.version}"
        warnings = [f"{ref} is unfit: {check.sentence}" for check in version.manifest.unfit]
        if ignored := gradient_warning(version.calibration_path or version.path):
            warnings.append(f"calibration {version.calibration} of {ref}: {ignored}")
        return cls(ref, version.calibration, tuple(warnings))

    @classmethod
    def of_detail(cls, detail: ModelDetail) -> JudgingModel:
        ref, calibration = f"{detail.name}:{detail.version}", detail.calibration
        warnings = [f"{ref} is unfit: {reason.detail}" for reason in detail.unfit]
        warnings += [
            f"{ref} has a drift alarm of {window.source or 'all sources'}: its p-values may be off"
            for window in detail.drift
            if window.alarm
        ]
        texts = filter(None, (calibration.problem, calibration.warning))
        warnings += [f"calibration {calibration.number} of {ref}: {text}" for text in texts]
        return cls(ref, calibration.number, tuple(warnings))


def registry() -> Registry:
    return Registry(read_settings().registry_dir)


def judging_model(model: str, session: Session) -> JudgingModel:
    """Resolve a reference such as ``digits@live`` in the service, or in this machine's registry."""
    if session.in_process:
        return JudgingModel.of_version(registry().resolve(model))
    return JudgingModel.of_detail(session.client.models.get(model))
