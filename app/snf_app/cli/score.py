"""Command ``snf score``."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from snf_app.cli import completion
from snf_app.cli.common import DEFAULT_MODEL, EXIT_CODES, FailOnAnomaly, Model, fail
from snf_app.cli.output import ENDINGS, check_new, images_bar
from snf_app.cli.score_output import (
    HeatMapFolder,
    JsonOutput,
    JudgingModel,
    Remarks,
    TableOutput,
    judging_model,
    preprocessing_note,
    print_notes,
)
from snf_app.cli.service import FieldsOf, Session, command
from snf_client.images import FolderFiles, files_in
from snf_client.schemas.scores import ScoreOptions, ScoreQuery
from snf_client.scores import ScorePart
from snf_runtime.errors import USAGE, JudgedCounts

commands = typer.Typer(rich_markup_mode="markdown")

IN_TABLES = ("alpha", "source")  # options of the scores that tables have


@command(commands, epilog=EXIT_CODES)
def score(
    session: Session,
    options: Annotated[dict[str, Any], FieldsOf(ScoreQuery, "fdr", "explain")],
    paths: Annotated[list[Path] | None, typer.Argument(help="Image files, or folders of them.")] = None,
    model: Model = DEFAULT_MODEL,
    explain: Annotated[
        Path | None,
        typer.Option(help="Folder for a heat map of every image: NUMBER-NAME.png in the order of the images."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            help="Dataset of a running service to score instead of files; its workers share the images.",
            autocompletion=completion.datasets,
        ),
    ] = None,
    fail_on_anomaly: FailOnAnomaly = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Table to write, a row for each image: .parquet, .csv or .jsonl. An interrupted command goes on when "
            "it is repeated.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a table, or delete earlier heat maps.")] = False,
) -> None:
    """Compute the log-likelihood and an anomaly verdict of each image file, or of each image of a dataset.

    The dataset is one of a running service.
    """
    if (dataset is None) == (not paths):
        raise fail("expected either image files or folders, or a --dataset", USAGE)
    if options["source"] is not None and (not session.url or dataset is not None):
        raise fail("--source needs image files and a service that watches drift: add --url or set SNF_URL", USAGE)
    given = {name for name, value in options.items() if value != ScoreQuery.model_fields[name].default}
    given |= set() if explain is None else {"explain"}
    if out is not None and (refused := sorted(given - {*IN_TABLES})):
        raise fail(f"--out cannot be combined with --{', --'.join(refused)}", USAGE)
    if dataset is not None:
        if out is None:
            raise fail("--dataset needs --out, the file for the table of scores", USAGE)
        check_new(out, ENDINGS, force=force)
        from snf_app.cli.bulk_scoring import score_dataset  # noqa: PLC0415 - PyArrow takes time to load

        counts = score_dataset(session, dataset, out, model, options["alpha"])
    elif out is not None:
        check_new(out, ENDINGS, force=force)
        from snf_app.cli.bulk_scoring import TableRequest, score_to_table  # noqa: PLC0415 - as above

        files = _files(paths or [], out)
        counts = score_to_table(session, TableRequest(files, out, model, options["alpha"], options["source"], force))
    else:
        query = ScoreQuery.model_construct(**options, explain=explain is not None)
        counts = _score_files(session, _files(paths or [], explain), model, query, explain, force=force)
    typer.echo(counts.text, err=True)
    raise typer.Exit(counts.exit_code(fail_on_anomaly=fail_on_anomaly))


def _score_files(
    session: Session, files: list[Path], model: str, query: ScoreQuery, heat_maps: Path | None, *, force: bool
) -> JudgedCounts:
    judging = judging_model(model, session)
    pictures = None if heat_maps is None else HeatMapFolder(heat_maps, force=force)
    if session.url:
        options = cast(ScoreOptions, query.model_dump(exclude={"fdr"}))
        parts = session.client.score_parts(judging.ref, files, **options)
    else:
        # Through the application it would take twice as long for one image.
        from snf_app.cli.score_local import score_local  # noqa: PLC0415 - for an image of this process alone

        parts = score_local(files, judging.ref, query)
    with closing(parts):
        counts = _print(parts, len(files), pictures, judging, as_json=session.as_json)
    if heat_maps is not None:
        typer.echo(f"{counts.judged} heat maps in {heat_maps}", err=session.as_json)
    return counts


def _print(
    parts: Iterable[ScorePart], count: int, pictures: HeatMapFolder | None, judging: JudgingModel, *, as_json: bool
) -> JudgedCounts:
    """Print scores and below them the warnings and what was done to the files; return the counts of all images."""
    judged = anomalies = not_judged = 0
    remarks = Remarks()
    output = JsonOutput(count) if as_json else TableOutput()
    with images_bar("scoring", count) as advance:
        for part in parts:
            judging.check_scores(part)
            scored = [result for result in part.results if result.status == "ok"]
            judged += len(scored)
            not_judged += len(part.results) - len(scored)
            anomalies += sum(result.anomaly.is_anomaly for result in scored)
            for result in scored:
                remarks.add(preprocessing_note(result), result.filename or f"image {result.index}")
            if pictures is not None:
                pictures.write(part.results)
            output.add(part)
            advance(len(part.results))
    output.end()
    print_notes((*judging.warnings, *remarks.lines), to_stderr=as_json)
    return JudgedCounts(judged, anomalies, not_judged)


def _files(paths: list[Path], results: Path | None) -> list[Path]:
    """Return the given files and those in the given folders, but not ``results``, where this command writes."""
    files: list[Path] = []
    skipped: list[Path] = []
    own: list[Path] = []
    place = None if results is None else results.resolve()
    for path in paths:
        if path.is_dir():
            content = files_in(path)
            for file in content.files:
                is_result = place is not None and place.name in file.parts and file.resolve().is_relative_to(place)
                (own if is_result else files).append(file)
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
