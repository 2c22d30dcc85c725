# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

from typing import Annotated, Literal

import typer

from snf_app.cli import completion
from snf_app.cli.common import DEFAULT_MODEL, Json, fail, read_settings, require_local
from snf_app.cli.score import Alpha
from snf_runtime.errors import USAGE


def bulk(
    images: Annotated[
        str,
        typer.Argument(
            help="Folder of image files, tar files or Parquet files: a path, or a URL such as s3://bucket/folder. Or "
            "the name of a dataset of this machine.",
            show_default=False,
            autocompletion=completion.datasets,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the scores, one Parquet file for each part of the images: a path or a URL such as "
            "s3://bucket/scores. An interrupted command goes on when it is repeated.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="Model as NAME, NAME:VERSION or NAME@ALIAS, or URL of the folder that `snf models export` wrote.",
            autocompletion=completion.models,
        ),
    ] = DEFAULT_MODEL,
    alpha: Alpha = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option("--engine", help="On this machine, or on the Ray cluster at SNF_RAY_ADDRESS."),
    ] = "local",
    processes: Annotated[int, typer.Option("--processes", min=1, max=1024, help="Processes of the local engine.")] = 1,
    fail_on_anomaly: Annotated[
        bool,
        typer.Option(
            "--fail-on-anomaly", help="Exit with code 1 if an image is an anomaly and every image was judged."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Delete scores of another model or of other images in the folder.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score any number of images into a folder of Parquet files, without a service.

    Images are read where they are.
    """
    require_local("snf bulk", "a service does this by a job of type score with the parameter `output`")
    if engine == "ray" and processes != 1:
        raise fail("--processes: of the engine local; a Ray cluster has an actor for each core or GPU", USAGE)
    read_settings(writes=True)  # before the imports of the work, in which an invalid setting has no message
    from snf_app.cli.bulk_scoring import score_in_bulk

    counts = score_in_bulk(images, out, model, alpha, engine, processes, force=force, as_json=as_json)
    typer.echo(counts.text, err=True)
    raise typer.Exit(counts.exit_code(fail_on_anomaly=fail_on_anomaly))
