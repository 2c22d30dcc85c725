# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf score`: log-likelihoods and verdicts of image files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.common import (
    ANOMALY,
    DEFAULT_MODEL,
    USAGE,
    Json,
    Key,
    Model,
    Url,
    errors_for_people,
    fail,
    print_json,
    settings,
)
from app.commands.score_file import score_to_file
from app.image_files import images_in

if TYPE_CHECKING:
    from app.serving import Loaded

BATCH = 64

Result = dict[str, Any]


def score(
    paths: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", show_default=False)],
    model: Model = DEFAULT_MODEL,
    alpha: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="False-alarm rate.")] = None,
    draws: Annotated[int, typer.Option(min=1, max=256, help="Dequantisation draws an image.")] = 1,
    fail_on_anomaly: Annotated[bool, typer.Option("--fail-on-anomaly", help="Exit with 1 on an anomaly.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write a Parquet file, a row an image; resumes.", show_default=False),
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Score image files."""
    from rich.progress import Progress

    if out is not None and url:
        raise fail("--out scores in this process, without --url (or SNF_URL)", USAGE)
    if out is not None and draws != 1:
        raise fail("--out scores with one draw an image, without --draws", USAGE)
    files = _files(paths)
    if out is not None:
        with errors_for_people():
            found = score_to_file(files, out, model, alpha, as_json)
        _exit(found.images - found.errors, found.anomalies, fail_on_anomaly)
        return
    with errors_for_people(), Progress(transient=True, disable=as_json) as bar:
        task = bar.add_task("scoring", total=len(files))
        head: Result = {}
        results: list[Result] = []
        answers = _remote(files, model, alpha, draws, url, key) if url else _local(files, model, alpha, draws)
        for answer in answers:
            for one in answer.pop("results"):
                one["index"] = len(results)
                results.append(one)
                bar.advance(task)
            head |= answer
    if as_json:
        print_json({**head, "count": len(results), "results": results})
    else:
        _table(head, results)
    good = [one for one in results if one["status"] == "ok"]
    _exit(len(good), sum(one["anomaly"]["is_anomaly"] for one in good), fail_on_anomaly)


def _exit(good: int, anomalies: int, fail_on_anomaly: bool) -> None:
    if not good:
        raise typer.Exit(USAGE)
    if fail_on_anomaly and anomalies:
        raise typer.Exit(ANOMALY)


def _files(paths: list[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += images_in(path)
        elif path.is_file():
            found.append(path)
        else:
            raise fail(f"{path} does not exist", USAGE)
    if not found:
        raise fail("no image was found", USAGE)
    return found


def _batches(files: list[Path], draws: int) -> Iterator[list[Path]]:
    # A service counts an image once a draw.
    size = max(1, BATCH // draws)
    for start in range(0, len(files), size):
        yield files[start : start + size]


def _remote(
    files: list[Path], model: str, alpha: float | None, draws: int, url: str, key: str | None
) -> Iterator[Result]:
    from app.commands.remote import Remote, describe

    service = Remote(url, key)
    query = {"draws": draws, **({} if alpha is None else {"alpha": alpha})}
    for batch in _batches(files, draws):
        form = [("images", (str(path), path.read_bytes())) for path in batch]
        answer = service.call("POST", f"/v1/models/{model}/score", params=query, files=form, accept=(422,))
        body: Result = answer.json()
        if answer.is_error and "results" not in body:
            raise fail(describe(answer), USAGE)
        yield {k: body[k] for k in ("model", "version", "calibration", "results") if k in body}


def _local(files: list[Path], model: str, alpha: float | None, draws: int) -> Iterator[Result]:
    from app.serving import Loaded
    from models.problems import AlphaUnattainable
    from models.registry import Registry
    from models.scoring.scorer import Scorer
    from models.scoring.threads import one_blas_thread

    one_blas_thread()
    found = settings()
    version = Registry(found.registry_dir).resolve(model)
    loaded = Loaded(version, Scorer.load(version.path, version.calibration_path, found.engine_options))
    if alpha is not None and alpha < loaded.scorer.smallest_p:
        raise AlphaUnattainable(alpha, loaded.scorer.smallest_p)
    for batch in _batches(files, draws):
        yield {
            "model": version.name,
            "version": version.version,
            "calibration": version.calibration,
            "results": _score_batch(loaded, batch, alpha, draws),
        }


def _score_batch(loaded: Loaded, batch: list[Path], alpha: float | None, draws: int) -> list[Result]:
    from app.intake import Upload, decode_upload, decoded
    from app.plain_scores import Asked, PlainScores
    from app.score_answers import one_result

    items = [decode_upload(Upload(str(path), path.read_bytes()), loaded.scorer.preprocessing) for path in batch]
    images = decoded(items)
    asked = [Asked(pixels, alpha) for pixels in images.values()]
    scored = dict(zip(images, PlainScores(loaded.scorer, draws)(asked) if asked else [], strict=True))
    return [
        one_result(index, item, scored.get(index), loaded).model_dump(exclude_unset=True)
        for index, item in enumerate(items)
    ]


def _table(head: Result, results: list[Result]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{head['model']} version {head['version']}" if "model" in head else None
    table = Table(title=title)
    table.add_column("file", overflow="fold")
    for column in ("log-likelihood (nats)", "bits/dim", "p-value"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for one in results:
        if one["status"] == "ok":
            anomaly = one["anomaly"]
            verdict = "[bold red]anomaly[/]" if anomaly["is_anomaly"] else "normal"
            table.add_row(
                one["filename"],
                f"{one['log_likelihood']:.3f}",
                f"{one['bits_per_dim']:.4f}",
                f"{anomaly['p_value']:.4g}",
                verdict,
            )
        else:
            table.add_row(one["filename"], "", "", "", f"[yellow]{one['error']['title']}[/]")
    Console().print(table)
