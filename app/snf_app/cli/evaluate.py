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
    Model,
    Url,
    error_messages,
    fail,
    fail_validation,
    read_settings,
    refuse_gradients,
    registry,
    stop_on_signals,
)
from snf_app.cli.out_file import Force, check_new, write_out
from snf_app.cli.progress import events_bar, labelled_bar
from snf_app.cli.remote import follow_job, service
from snf_runtime.errors import FAILED, USAGE

if TYPE_CHECKING:
    from snf_client.schemas.evaluations import EvaluationParameters, EvaluationReport


def evaluate(
    model: Model,
    normal: Annotated[
        str,
        typer.Option(
            "--normal", "-n", help="Dataset of normal images, see `snf datasets`.", autocompletion=completion.datasets
        ),
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against", "-a", help="Dataset of anomalous images; repeatable.", autocompletion=completion.datasets
        ),
    ] = None,
    masks: Annotated[
        list[str] | None,
        typer.Option(
            "--masks",
            metavar="AGAINST=MASKS",
            help="Dataset with masks of the defects of an --against dataset; repeatable.",
            show_default=False,
        ),
    ] = None,
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Also evaluate against normal images with graded faults.")
    ] = False,
    images: Annotated[int, typer.Option(help="Images of each dataset at most.")] = 10_000,
    alpha: Annotated[
        float | None, typer.Option(help="A false-alarm rate in addition to 0.01 and 0.05.", show_default=False)
    ] = None,
    _thorough: Annotated[bool, typer.Option("--thorough", hidden=True, callback=refuse_gradients)] = False,
    adapt: Annotated[
        bool, typer.Option("--adapt", help="Convert size and colour of images that the model would refuse.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="HTML file for the report.", show_default=False)
    ] = None,
    force: Force = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Measure how well a model separates normal from anomalous images, compared with trivial baselines.

    The measures include AUROC, AUPR and the rate of false alarms.
    """
    from snf_app.cli.evaluation_tables import print_report
    from snf_models.evaluation.report import render_html

    if out is not None:
        check_new(out, (".html",), force=force)
    parameters = _parameters(
        {
            "against": against or [],
            "masks": _masks(masks or []),
            "corruptions": corruptions,
            "images": images,
            "alpha": alpha,
            "adapt": adapt,
        }
    )
    if url:
        report = _remote(model, normal, parameters, url, key, quiet=as_json)
    else:
        with error_messages():
            report = _local(model, normal, parameters)
    # Printed first, so that the result of long work is not lost if the file cannot be written.
    if as_json:
        typer.echo(report.model_dump_json(indent=2, ensure_ascii=True))
    else:
        print_report(report)
    if out is not None:
        write_out(out, render_html(report).encode())
        typer.echo(f"the report is in {out}", err=as_json)


def _masks(given: list[str]) -> dict[str, str]:
    """Return the dataset of masks by the dataset of anomalous images, from options such as ``bad-parts=bad-masks``."""
    pairs = [option.partition("=") for option in given]
    for option, (against, _, masks) in zip(given, pairs, strict=True):
        if not against or not masks:
            raise fail(f"--masks: expected AGAINST=MASKS, such as bad-parts=bad-masks, got {option!r}", USAGE)
    return {against: masks for against, _, masks in pairs}


def _parameters(given: dict[str, object]) -> EvaluationParameters:
    from pydantic import ValidationError

    from snf_client.schemas.evaluations import EvaluationParameters

    try:
        return EvaluationParameters.model_validate(given)
    except ValidationError as error:
        raise fail_validation(error, "--against") from error


def _local(model: str, normal: str, parameters: EvaluationParameters) -> EvaluationReport:
    import torch

    from snf_models.datasets import DatasetStore
    from snf_models.errors import Interrupted
    from snf_models.evaluation.assemble import Subject
    from snf_models.evaluation.evaluate import evaluate as run
    from snf_models.scorer import load_model

    settings = read_settings()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    version = registry().resolve(model)
    subject = Subject(
        scorer=load_model(version.path, version.calibration_path, settings.engine_options),
        model=f"{version.name}:{version.version}",
        dataset=normal,
        parameters=parameters,
        data_dir=settings.data_dir,
        store=DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes),
        calibration=version.calibration,
    )
    with stop_on_signals() as stop, labelled_bar() as update:

        def progress(label: str, done: int, total: int) -> None:
            if stop.is_set():
                raise Interrupted("asked to stop")
            update(label, done, total)

        try:
            return run(subject, progress)
        except Interrupted as error:
            raise fail("interrupted; the evaluation starts anew when it is repeated", INTERRUPTED) from error


def _remote(
    model: str, normal: str, parameters: EvaluationParameters, url: str, key: str | None, *, quiet: bool
) -> EvaluationReport:
    from snf_client.schemas.evaluations import EvaluationReport
    from snf_client.schemas.evaluations import EvaluationReport as ClientReport

    with service(url, key) as client, events_bar() as observe:
        given: Any = parameters.model_dump(mode="json", exclude_defaults=True)
        job = client.jobs.evaluate(normal, model, parameters=given)
        if not quiet:
            typer.echo(f"job {job.id}; Ctrl-C stops watching, not the job")
        follow_job(client, job.id, observe)
        report = client.jobs.result(job.id)
    if not isinstance(report, ClientReport):
        raise fail(f"expected a report as the result of job {job.id}, got a {type(report).__name__}", FAILED)
    return EvaluationReport.model_validate(report.model_dump())
