# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snf_app.cli import completion
from snf_app.cli.common import (
    INTERRUPTED,
    Json,
    Key,
    Url,
    error_messages,
    fail,
    fail_validation,
    print_response,
    read_settings,
    registry,
    stop_on_signals,
)
from snf_app.cli.model_files import Ref
from snf_app.cli.out_file import Force, check_new, write_out
from snf_app.cli.progress import events_bar, labelled_bar
from snf_app.cli.remote import follow_job, service
from snf_runtime.errors import FAILED

if TYPE_CHECKING:
    from snf_client.schemas.limits import LimitParameters, LimitRecord


def limit(
    model: Ref,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help="Dataset of good images. Default: that of the calibration, of which only unused images get defects.",
            show_default=False,
            autocompletion=completion.datasets,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="False-alarm rate. Default: 0.01, or the smallest p-value where that is larger.", show_default=False
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=29, help="Images at most.")] = 200,
    shapes: Annotated[
        list[str] | None,
        typer.Option(
            "--shapes",
            help="Shape of defects: scratch, spot, stain, hole or missing-part; repeatable. Default: all.",
            show_default=False,
        ),
    ] = None,
    contrasts: Annotated[
        list[int] | None,
        typer.Option(
            "--contrasts",
            help="Contrast of scratch, spot and stain in grey levels; repeatable. Default: 32, 64 and 128.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the places of the defects.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="SVG file for the picture.", show_default=False)
    ] = None,
    force: Force = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Measure detection limits, the sizes from which on a model detects at least 90 % of simulated defects.

    They are measured for each shape and contrast.
    """
    from snf_app.cli.limit_tables import print_limit
    from snf_models.limits.chart import limit_chart

    if out is not None:
        check_new(out, (".svg",), force=force)
    given = {"alpha": alpha, "images": images, "shapes": shapes, "contrasts": contrasts, "seed": seed}
    parameters = _parameters({name: value for name, value in given.items() if value is not None})
    if url:
        number, record = _remote(model, data, parameters, url, key, quiet=as_json)
    else:
        with error_messages():
            number, record = _local(model, data, parameters)
    # Printed first, so that the result of long work is not lost if the file cannot be written.
    if as_json:
        print_response(record)
    else:
        print_limit(number, record)
    if out is not None:
        write_out(out, limit_chart(record).encode())
        typer.echo(f"the picture is in {out}", err=as_json)


def _parameters(given: dict[str, object]) -> LimitParameters:
    from pydantic import ValidationError

    from snf_client.schemas.limits import LimitParameters

    try:
        return LimitParameters.model_validate(given)
    except ValidationError as error:
        raise fail_validation(error, "limit", LimitParameters.model_fields) from error


def _local(model: str, data: str | None, parameters: LimitParameters) -> tuple[int, LimitRecord]:
    import torch

    from snf_models.datasets import DatasetStore
    from snf_models.errors import Interrupted
    from snf_models.limits.good_images import good_images
    from snf_models.limits.measure import measure_limits
    from snf_models.scorer import load_model

    settings = read_settings(writes=True)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    models = registry()
    version = models.resolve(model)
    scorer = load_model(version.path, version.calibration_path, settings.engine_options)
    # Refused before images are loaded.
    scorer.calibration.check_alpha(parameters.alpha)
    good = good_images(
        data or scorer.calibration_summary.dataset,
        scorer.manifest,
        scorer.calibration_summary,
        parameters.images,
        settings.data_dir,
        DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes),
    )
    with stop_on_signals() as stop, labelled_bar() as update:

        def progress(label: str, done: int, total: int) -> None:
            if stop.is_set():
                raise Interrupted("asked to stop")
            update(label, done, total)

        try:
            record = measure_limits(scorer, good, parameters, progress=progress, calibration=version.calibration)
        except Interrupted as error:
            raise fail("interrupted; the measurement starts anew when it is repeated", INTERRUPTED) from error
    return models.limits(version.name, version.version).publish(record), record


def _remote(
    model: str, data: str | None, parameters: LimitParameters, url: str, key: str | None, *, quiet: bool
) -> tuple[int, LimitRecord]:
    """Measure the limit by a job of a running service, and return its number and record."""
    from snf_client.schemas.jobs import LimitResult
    from snf_client.schemas.limits import LimitRecord

    with service(url, key) as client, events_bar() as observe:
        dataset = data or client.models.get(model).calibration.dataset
        if dataset is None:
            raise fail(f"the calibration of {model} is damaged: name a dataset of good images with --data", FAILED)
        given: Any = parameters.model_dump(mode="json", exclude_defaults=True)
        job = client.jobs.limit(dataset, model, parameters=given)
        if not quiet:
            typer.echo(f"job {job.id}; Ctrl-C stops watching, not the job")
        follow_job(client, job.id, observe)
        result = client.jobs.result(job.id)
        if not isinstance(result, LimitResult):
            raise fail(f"expected a limit as the result of job {job.id}, got a {type(result).__name__}", FAILED)
        view = client.limits.get(result.ref, result.limit)
    return result.limit, LimitRecord.model_validate(view.limit.model_dump())
