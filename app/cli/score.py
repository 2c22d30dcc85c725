# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Command ``snf score``: log-likelihoods and verdicts of image files, or of a dataset of a service."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.cli import completion
from app.cli.common import (
    DEFAULT_MODEL,
    USAGE,
    Json,
    Key,
    Model,
    Url,
    error_messages,
    fail,
    print_json,
    read_settings,
)
from app.cli.job_tables import job_counts
from app.cli.judged import JudgedCounts
from app.cli.progress import images_bar, labelled_bar
from app.cli.remote import follow_job, service, service_url
from app.cli.score_parquet import score_to_file

if TYPE_CHECKING:
    from snf_client.resources.scores import ScoreOptions, ScorePart

Alpha = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="False-alarm rate.")]
Detail = Annotated[
    Literal["basic", "full"], typer.Option(help="full: also use gradients for the verdict, several times slower.")
]


def score(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Image files, or folders of them.", show_default=False)
    ] = None,
    model: Model = DEFAULT_MODEL,
    alpha: Alpha = None,
    draws: Annotated[int, typer.Option(min=1, max=256, help="Dequantisation draws for each image.")] = 1,
    detail: Detail = "basic",
    explain: Annotated[
        Path | None,
        typer.Option(
            "--explain",
            help="Folder for a heat map of every image: NUMBER-NAME.png in the order of the images.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", help="Camera or lot of the images; a service watches each for drift.", show_default=False
        ),
    ] = None,
    monitor: Annotated[
        bool,
        typer.Option("--monitor/--no-monitor", help="Whether the images count for the drift that a service watches."),
    ] = True,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            help="Dataset of a running service to score instead of files; its workers share the images.",
            show_default=False,
            autocompletion=completion.datasets,
        ),
    ] = None,
    fail_on_anomaly: Annotated[
        bool,
        typer.Option(
            "--fail-on-anomaly", help="Exit with code 1 if an image is an anomaly and every image was judged."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Parquet file to write, a row for each image. An interrupted command continues when repeated.",
            show_default=False,
        ),
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Compute the log-likelihood and an anomaly verdict of each image file, or of each image in a service's dataset."""
    if (dataset is None) == (not paths):
        raise fail("expected either image files or folders, or a --dataset", USAGE)
    if source is not None and not url:
        raise fail("--source needs a service that watches drift: add --url or set SNF_URL", USAGE)
    if source is not None and not monitor:
        raise fail("--source names whose drift is watched: leave out --no-monitor", USAGE)
    if explain is not None and explain.exists() and not explain.is_dir():
        raise fail(f"--explain: expected a folder for the heat maps, got the file {explain}", USAGE)
    if out is not None:
        _require_file(out)
    if out is not None and url and dataset is None:
        raise fail("--out scores files in this process: leave out --url and SNF_URL", USAGE)
    if out is not None and (draws != 1 or detail != "basic" or explain is not None or source is not None):
        raise fail("--out cannot be combined with --draws, --detail, --explain or --source", USAGE)
    if dataset is None and not url:
        read_settings()  # before the imports of the work, in which an invalid setting would fail without a message
    if dataset is not None:
        if out is None:
            raise fail("--dataset needs --out, the Parquet file for the scores", USAGE)
        counts = _score_dataset(dataset, out, model, alpha, url=url, key=key, as_json=as_json)
    elif out is not None:
        with error_messages():
            summary = score_to_file(_files(paths or []), out, model, alpha, as_json)
        counts = JudgedCounts(summary.images - summary.errors, summary.anomalies, summary.errors)
    else:
        options: ScoreOptions = {
            "alpha": alpha,
            "draws": draws,
            "explain": explain is not None,
            "detail": detail,
            "source": source,
            "monitor": monitor,
        }
        counts = _score_files(_files(paths or []), model, options, explain, url, key, as_json)
    typer.echo(counts.text, err=True)
    counts.exit(fail_on_anomaly=fail_on_anomaly)


def _score_files(
    files: list[Path],
    model: str,
    options: ScoreOptions,
    heat_maps: Path | None,
    url: str | None,
    key: str | None,
    as_json: bool,
) -> JudgedCounts:
    """Score image files, print the results and return their counts."""
    from app.cli.score_local import score_local
    from snf_client.resources.scores import ScoreParameters

    with ExitStack() as stack:
        if url:
            client = stack.enter_context(service(url, key))
            parts = client.score_parts(model, files, **options)
        else:
            stack.enter_context(error_messages())
            parts = score_local(files, ScoreParameters(model, **options))
        counts = _print(stack.enter_context(closing(parts)), len(files), heat_maps, as_json)
    if heat_maps is not None:
        typer.echo(f"{counts.judged} heat maps in {heat_maps}", err=as_json)
    return counts


def _print(parts: Iterable[ScorePart], count: int, heat_maps: Path | None, as_json: bool) -> JudgedCounts:
    """Print scores, write heat maps to files, and return the counts of all images."""
    from app.cli.score_tables import HeatMapWriter, JsonOutput, ScoreOutput, TableOutput

    output: ScoreOutput = JsonOutput(count) if as_json else TableOutput()
    if heat_maps is not None:
        output = HeatMapWriter(heat_maps, output)
    judged = anomalies = not_judged = 0
    with images_bar("scoring", count) as advance:
        for part in parts:
            scored = [result for result in part.results if result.status == "ok"]
            judged += len(scored)
            not_judged += len(part.results) - len(scored)
            anomalies += sum(result.anomaly.is_anomaly for result in scored)
            output.add(part)
            advance(len(part.results))
    output.end()
    return JudgedCounts(judged, anomalies, not_judged)


def _score_dataset(
    dataset: str, out: Path, model: str, alpha: float | None, *, url: str | None, key: str | None, as_json: bool
) -> JudgedCounts:
    """Score a dataset by a job of a service, and return the counts of its images."""
    with service(service_url(url), key) as client, labelled_bar() as bar:

        def observe(event: dict[str, Any]) -> None:
            if event["event"] == "metrics":
                bar(f"scoring {dataset}", event["step"], event["steps"])

        job = client.jobs.score(dataset, model, parameters={} if alpha is None else {"alpha": alpha})
        typer.echo(
            f"job {job.id}; Ctrl-C stops watching, not the job: `snf jobs download {job.id}` fetches its table",
            err=True,
        )
        job = follow_job(client, job.id, observe)
        client.jobs.download(job.id, out)
    if as_json:
        print_json({"job": job.id, "model": job.model, "out": str(out), **(job.result or {})})
    else:
        typer.echo(f"the table is in {out}")
    return job_counts(job)


def _require_file(out: Path) -> None:
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise fail(f"--out: expected a file in a folder that exists, got {out}", USAGE)


def _files(paths: list[Path]) -> list[Path]:
    from snf_client.local_files import FolderFiles, files_in

    files: list[Path] = []
    skipped: list[Path] = []
    for path in paths:
        if path.is_dir():
            content = files_in(path)
            files += content.files
            skipped += content.skipped
        elif path.exists():
            files.append(path)
        else:
            raise fail(f"{path} does not exist", USAGE)
    if note := FolderFiles(files, skipped).note:
        typer.echo(f"snf: {note}", err=True)
    if not files:
        raise fail("no image was found in the given folders", USAGE)
    return files
