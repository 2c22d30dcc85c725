"""Every way in which an image file gets to a model, and what becomes of it there, in the same words for all."""

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pyarrow import parquet
from typer.testing import CliRunner, Result

from snf_app.cli.main import cli
from snf_client import Client
from snf_client.scores import ImageResult
from snf_models.bulk.work import score_range
from snf_models.datasets.image_source import StoredImages
from snf_models.datasets.store import DatasetStore
from snf_models.scorer import load_model
from tests.support.file_kinds import FileKind
from tests.support.paths import ROOT
from tests.support.programs import run_program

MODEL = "digits"
REQUEST = 32
COUNTED = "counted"
SOURCE = (ROOT / "app" / "snf_app" / "console" / "js" / "score" / "intake.js").read_text()


@dataclass(frozen=True)
class Cell:
    """What became of a file: judged, converted, refused, counted, or stored in a dataset; what was said; its score."""

    outcome: str
    said: str = ""
    log_likelihood: float | None = None


Cells = dict[str, Cell]


def by_http(service: httpx.Client, kinds: Sequence[FileKind]) -> Cells:
    """Forms with the files under their names."""
    return _posted(service, [(kind.name, kind.name, kind.data) for kind in kinds])


def by_console(service: httpx.Client, kinds: Sequence[FileKind]) -> Cells:
    """The forms that a browser sends for a folder, without the files that the console only counts."""
    sent = [(kind.name, f"folder/{kind.name}", kind.data) for kind in kinds if not console_skips(kind.name)]
    return {kind.name: Cell(COUNTED) for kind in kinds} | _posted(service, sent)


def console_skips(path: str) -> bool:
    """The rule of the console, with the patterns of its source."""
    patterns = [re.search(rf"^const {name} = /(.+)/i;$", SOURCE, re.MULTILINE) for name in ("TEXT", "SYSTEM")]
    text, system = (re.compile(found[1], re.IGNORECASE) for found in patterns if found)
    parts = path.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return hidden or bool(system.search(parts[-1])) or bool(text.search(parts[-1]))


def by_client(url: str, folder: Path, kinds: Sequence[FileKind]) -> Cells:
    """The Python client, given the paths of the files."""
    with Client(url) as client:
        results = list(client.score_each(MODEL, [folder / kind.name for kind in kinds]))
    return {kind.name: _cell(result.model_dump()) for kind, result in zip(kinds, results, strict=True)}


def by_command(folder: Path, kinds: Sequence[FileKind], *options: str) -> tuple[Cells, Result]:
    """``snf score FOLDER --json``, in this process or with ``--url``."""
    done = CliRunner().invoke(cli, ["score", str(folder), "-m", MODEL, "--json", *options])
    results = json.loads(done.stdout)["results"]
    found = {name: _cell(result) for result in results for name in [_name(result["filename"], folder)]}
    return {kind.name: Cell(COUNTED) for kind in kinds} | found, done


def by_table(folder: Path, kinds: Sequence[FileKind], out: Path) -> tuple[Cells, Result]:
    """``snf score FOLDER --out FILE``."""
    done = CliRunner().invoke(cli, ["score", str(folder), "-m", MODEL, "--out", str(out)])
    return {kind.name: Cell(COUNTED) for kind in kinds} | _rows(out, folder), done


def by_watching(url: str, folder: Path, kinds: Sequence[FileKind], table: Path) -> tuple[Cells, str]:
    """The program that watches a folder; also what it says of the files that it does not send."""
    words = (folder, "--model", MODEL, "--table", table, "--once", "--every", "0.2")
    done = run_program(ROOT / "examples" / "watch_folder.py", *words, cwd=ROOT, env=_environment(url))
    if done.returncode != 4:
        raise RuntimeError(f"expected exit code 4, as not every file is an image, got {done.returncode}: {done.stderr}")
    with table.open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    found = {
        name: Cell("refused", row["why"])
        if not row["log_likelihood"]
        else _judged(_changes(row["why"]), float(row["log_likelihood"]))
        for name, row in rows.items()
    }
    return {kind.name: Cell(COUNTED) for kind in kinds} | found, done.stderr


def by_upload(url: str, folder: Path, kinds: Sequence[FileKind], name: str) -> tuple[Cells, int]:
    """A folder as a dataset, by the client; also how many files the report counts as skipped."""
    with Client(url) as client:
        return _stored(kinds, client.datasets.upload(name, folder).model_dump())


def by_archive(service: httpx.Client, kinds: Sequence[FileKind], name: str) -> tuple[Cells, int]:
    """The same files in a zip archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for kind in kinds:
            archive.writestr(kind.name, kind.data)
    answer = service.post("/v1/datasets", data={"name": name}, files={"file": ("kinds.zip", content.getvalue())})
    return _stored(kinds, answer.raise_for_status().json())


def by_job(home: Path, artifact: Path, name: str, out: Path) -> Cells:
    """What a job that scores a dataset does, without its broker."""
    scorer = load_model(artifact)
    source = StoredImages(DatasetStore(home / "datasets"), name, scorer.preprocessing)
    parquet.write_table(score_range(scorer, source, 0, source.count, None), out)
    return _rows(out, Path())


def _posted(service: httpx.Client, files: Sequence[tuple[str, str, bytes]]) -> Cells:
    cells: Cells = {}
    for start in range(0, len(files), REQUEST):
        part = files[start : start + REQUEST]
        form = [("images", (sent, data, "application/octet-stream")) for _, sent, data in part]
        answer = service.post(f"/v1/models/{MODEL}/score", files=form)
        assert answer.status_code in (200, 422), answer.text
        for (name, sent, _), result in zip(part, answer.json()["results"], strict=True):
            assert result["filename"] == sent
            cells[name] = _cell(result)
    return cells


def _cell(result: dict[str, Any] | ImageResult) -> Cell:
    assert isinstance(result, dict)
    if result["status"] == "error":
        return Cell("refused", result["error"]["detail"])
    done = result["preprocessing"]
    converted = [f"converted {done['converted']}"] if done["converted"] else []
    return _judged([*(done.get("notes") or []), *converted], result["log_likelihood"])


def _judged(changes: Iterable[str], log_likelihood: float) -> Cell:
    said = "; ".join(changes)
    return Cell("converted" if said else "judged", said, log_likelihood)


def _rows(table: Path, folder: Path) -> Cells:
    return {
        _name(row["path"], folder): Cell("refused", row["error_detail"])
        if row["error"]
        else _judged(_changes(row["warning"] or ""), row["log_likelihood"])
        for row in parquet.read_table(table).to_pylist()
    }


def _changes(text: str) -> list[str]:
    """What was done to a file, from a text that may also hold reasons or a warning."""
    said = ("converted", "turned", "the first of", "16 bits")
    return [part for part in text.split("; ") if part.startswith(said)]


def _name(path: str, folder: Path) -> str:
    return Path(path).relative_to(folder).as_posix()


def _stored(kinds: Sequence[FileKind], detail: dict[str, Any]) -> tuple[Cells, int]:
    report = detail["report"]
    refused = {one["path"]: Cell("refused", one["reason"]) for one in report["rejected_files"]}
    taken = {kind.name: Cell(COUNTED if kind.is_counted else "stored") for kind in kinds}
    assert report["images"] == sum(cell.outcome == "stored" for cell in (taken | refused).values())
    return taken | refused, report["ignored"]


def _environment(url: str) -> dict[str, str]:
    return {"SNF_URL": url, "PYTHONPATH": str(ROOT / "client"), "PATH": ""}
