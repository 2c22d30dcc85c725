"""Command ``snf score``."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

import typer

from snf_app.cli import completion
from snf_app.cli.common import (
    DEFAULT_MODEL,
    EXIT_CODES,
    Json,
    Key,
    Model,
    Url,
    error_messages,
    fail,
    refuse_gradients,
)
from snf_app.cli.output import ENDINGS, check_place, images_bar
from snf_app.cli.score_output import (
    HeatMapWriter,
    JsonOutput,
    JudgingModel,
    Remarks,
    ScoreOutput,
    TableOutput,
    check_folder,
    earlier_files,
    judging_model,
    preprocessing_note,
    print_notes,
)
from snf_app.cli.service import service
from snf_client import Client
from snf_client.images import FolderFiles, files_in
from snf_client.scores import ScoreOptions, ScoreParameters, ScorePart
from snf_runtime.errors import USAGE, JudgedCounts
from snf_runtime.images.files import path_text

commands = typer.Typer(rich_markup_mode="markdown")

Alpha = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="False-alarm rate.")]


@commands.command(epilog=EXIT_CODES)
def score(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Image files, or folders of them.", show_default=False)
    ] = None,
    model: Model = DEFAULT_MODEL,
    alpha: Alpha = None,
    draws: Annotated[int, typer.Option(min=1, max=256, help="Dequantisation draws for each image.")] = 1,
    _detail: Annotated[str, typer.Option("--detail", hidden=True, callback=refuse_gradients)] = "",
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
            "--source",
            help="Camera or lot of the images: a service watches each for drift, and no images without one.",
            show_default=False,
        ),
    ] = None,
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
            help="Table to write, a row for each image: .parquet, .csv or .jsonl. An interrupted command goes on when "
            "it is repeated.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write over a table or heat maps of another model or of other images.")
    ] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Compute the log-likelihood and an anomaly verdict of each image file, or of each image of a dataset.

    The dataset is one of a running service.
    """
    if (dataset is None) == (not paths):
        raise fail("expected either image files or folders, or a --dataset", USAGE)
    if source is not None and (not url or dataset is not None):
        raise fail("--source needs image files and a service that watches drift: add --url or set SNF_URL", USAGE)
    if out is not None:
        check_place(out, ENDINGS)
    if out is not None and (draws != 1 or explain is not None):
        raise fail("--out cannot be combined with --draws or --explain", USAGE)
    if dataset is not None:
        if out is None:
            raise fail("--dataset needs --out, the file for the table of scores", USAGE)
        from snf_app.cli.bulk_scoring import score_dataset  # noqa: PLC0415 - PyArrow takes time to load

        counts = score_dataset(dataset, out, model, alpha, url=url, key=key, force=force, as_json=as_json)
    else:
        with ExitStack() as stack:
            client = stack.enter_context(service(url, key)) if url else None
            # The model may be here or there, and so are its errors.
            stack.enter_context(error_messages())
            files = _files(paths or [], _results(out, explain))
            if out is not None:
                from snf_app.cli.bulk_scoring import TableRequest, score_to_table  # noqa: PLC0415 - as above

                counts = score_to_table(TableRequest(files, out, model, alpha, source, force, as_json), client)
            else:
                options: ScoreOptions = {
                    "alpha": alpha,
                    "draws": draws,
                    "explain": explain is not None,
                    "source": source,
                }
                counts = _score_files(files, model, options, explain, client, force=force, as_json=as_json)
    typer.echo(counts.text, err=True)
    raise typer.Exit(counts.exit_code(fail_on_anomaly=fail_on_anomaly))


def _score_files(
    files: list[Path],
    model: str,
    options: ScoreOptions,
    heat_maps: Path | None,
    client: Client | None,
    *,
    force: bool,
    as_json: bool,
) -> JudgedCounts:
    judging = judging_model(model, client)
    output: ScoreOutput = JsonOutput(len(files)) if as_json else TableOutput()
    if heat_maps is not None:
        record = check_folder(heat_maps, judging, [path_text(path) for path in files], force=force)
        output = HeatMapWriter(heat_maps, record, output)
    if client is None:
        # Through the application it would take twice as long for one image.
        from snf_app.cli.score_local import score_local  # noqa: PLC0415 - for an image of this process alone

        parts = score_local(files, ScoreParameters(judging.ref, **options))
    else:
        parts = client.score_parts(judging.ref, files, **options)
    with closing(parts):
        counts = _print(parts, len(files), output, judging, as_json=as_json)
    if heat_maps is not None:
        typer.echo(f"{counts.judged} heat maps in {heat_maps}", err=as_json)
    return counts


def _print(
    parts: Iterable[ScorePart], count: int, output: ScoreOutput, judging: JudgingModel, *, as_json: bool
) -> JudgedCounts:
    """Print scores and below them the warnings and what was done to the files; return the counts of all images."""
    judged = anomalies = not_judged = 0
    remarks = Remarks()
    with images_bar("scoring", count) as advance:
        for part in parts:
            judging.check_scores(part)
            scored = [result for result in part.results if result.status == "ok"]
            judged += len(scored)
            not_judged += len(part.results) - len(scored)
            anomalies += sum(result.anomaly.is_anomaly for result in scored)
            for result in scored:
                remarks.add(preprocessing_note(result), result.filename or f"image {result.index}")
            output.add(part)
            advance(len(part.results))
    output.end()
    print_notes((*judging.warnings, *remarks.lines), to_stderr=as_json)
    return JudgedCounts(judged, anomalies, not_judged)


def _results(out: Path | None, heat_maps: Path | None) -> set[Path]:
    """Return the files that an earlier command may have written to where this one writes."""
    files = ([] if out is None else [out]) + ([] if heat_maps is None else earlier_files(heat_maps))
    return {path.resolve() for path in files}


def _files(paths: list[Path], results: set[Path]) -> list[Path]:
    """Return the given files and those in the given folders, but no results of this command."""
    files: list[Path] = []
    skipped: list[Path] = []
    own: list[Path] = []
    names = {path.name for path in results}
    for path in paths:
        if path.is_dir():
            content = files_in(path)
            for file in content.files:
                (own if file.name in names and file.resolve() in results else files).append(file)
            skipped += content.skipped
        elif path.exists():
            files.append(path)
        else:
            raise fail(f"{path} does not exist", USAGE)
    if note := FolderFiles(files, skipped).note:
        typer.echo(f"snf: {note}", err=True)
    if own:
        others = f" and {len(own) - 1} more" if len(own) > 1 else ""
        typer.echo(f"snf: left out, as results of this command are: {own[0]}{others}", err=True)
    if not files:
        raise fail("no image was found in the given folders", USAGE)
    return files
