# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf score`: log-likelihoods and verdicts of image files."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from app.cli import completion
from app.cli.common import (
    ANOMALY,
    DEFAULT_MODEL,
    USAGE,
    Json,
    Key,
    Model,
    Url,
    errors_for_people,
    fail,
)
from app.cli.progress import images_bar
from app.cli.remote import service
from app.cli.score_dataset import score_dataset
from app.cli.score_parquet import score_to_file

if TYPE_CHECKING:
    from snf_client.resources.scores import Part

Alpha = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="False-alarm rate.")]
Detail = Annotated[
    Literal["basic", "full"], typer.Option(help="full: verdicts also look at gradients, several times slower.")
]


def score(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Image files, or folders of them.", show_default=False)
    ] = None,
    model: Model = DEFAULT_MODEL,
    alpha: Alpha = None,
    draws: Annotated[int, typer.Option(min=1, max=256, help="Dequantisation draws an image.")] = 1,
    detail: Detail = "basic",
    explain: Annotated[
        Path | None,
        typer.Option(
            "--explain",
            help="Write a heat map of every image into this folder, as NUMBER-NAME.png in the order of the images.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", help="Camera or lot of the images: a service watches drift by it.", show_default=False
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            help="Instead of files: a dataset that a running service has; its workers share the images.",
            show_default=False,
            autocompletion=completion.datasets,
        ),
    ] = None,
    fail_on_anomaly: Annotated[bool, typer.Option("--fail-on-anomaly", help="Exit with 1 on an anomaly.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write a Parquet file, a row an image; resumes.", show_default=False),
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Score image files, or a whole dataset of a service."""
    if (dataset is None) == (not paths):
        raise fail("name image files or folders, or a --dataset", USAGE)
    if source is not None and not url:
        raise fail("--source is for a service that watches drift: it wants --url (or SNF_URL)", USAGE)
    if out is not None and url and dataset is None:
        raise fail("--out scores files in this process, without --url (or SNF_URL)", USAGE)
    if out is not None and (draws != 1 or detail != "basic" or explain is not None or source is not None):
        raise fail("--out scores with one draw an image, without --draws, --detail, --explain and --source", USAGE)
    if dataset is not None:
        if out is None:
            raise fail("--dataset wants --out, the Parquet file for its scores", USAGE)
        good, anomalies = score_dataset(dataset, out, model, alpha, url=url, key=key, as_json=as_json)
        _exit(good, anomalies, fail_on_anomaly)
        return
    files = _files(paths or [])
    if out is not None:
        with errors_for_people():
            found = score_to_file(files, out, model, alpha, as_json)
        _exit(found.images - found.errors, found.anomalies, fail_on_anomaly)
        return
    from app.cli.score_local import score_here
    from snf_client.resources.scores import Question

    question = Question(model, alpha, draws, explain is not None, detail, source)
    with ExitStack() as stack:
        if url:
            client = stack.enter_context(service(url, key))
            found_parts = client.score_parts(
                model, files, alpha=alpha, draws=draws, explain=explain is not None, detail=detail, source=source
            )
        else:
            stack.enter_context(errors_for_people())
            found_parts = score_here(files, question)
        good, anomalies = _print(stack.enter_context(closing(found_parts)), len(files), explain, as_json)
    if explain is not None:
        typer.echo(f"{good} heat maps in {explain}", err=as_json)
    _exit(good, anomalies, fail_on_anomaly)


def _print(parts: Iterable[Part], count: int, maps: Path | None, as_json: bool) -> tuple[int, int]:
    """Prints all results and writes their heat maps; how many there are, and how many of them are anomalies."""
    from app.cli.score_tables import HeatMaps, Json, Output, Table

    output: Output = Json(count) if as_json else Table()
    if maps is not None:
        output = HeatMaps(maps, output)
    good = anomalies = 0
    with images_bar("scoring", count) as advance:
        for part in parts:
            scored = [one for one in part.results if one.status == "ok"]
            good += len(scored)
            anomalies += sum(one.anomaly.is_anomaly for one in scored)
            output.add(part)
            advance(len(part.results))
    output.end()
    return good, anomalies


def _exit(good: int, anomalies: int, fail_on_anomaly: bool) -> None:
    if not good:
        raise typer.Exit(USAGE)
    if fail_on_anomaly and anomalies:
        raise typer.Exit(ANOMALY)


def _files(paths: list[Path]) -> list[Path]:
    from snf_client.image_files import images_in

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
