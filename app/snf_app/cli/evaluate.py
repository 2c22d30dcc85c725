"""Commands ``snf evaluate``, ``snf limit`` and ``snf recommend``: measured here, or by a job of a service."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from snf_app.cli import completion
from snf_app.cli.common import (
    Json,
    Key,
    Model,
    Url,
    error_messages,
    fail,
    fail_validation,
    print_result,
    refuse_gradients,
)
from snf_app.cli.evaluation_tables import print_limit, print_recommendation, print_report
from snf_app.cli.jobs import parse_pairs
from snf_app.cli.model_files import Ref
from snf_app.cli.output import Force, check_new, events_bar, write_out
from snf_app.cli.service import follow_job, service
from snf_client import Client
from snf_client.schemas.evaluations import EvaluationParameters, EvaluationReport
from snf_client.schemas.jobs import JobView, LimitResult
from snf_client.schemas.limits import LimitParameters, LimitRecord
from snf_client.schemas.recommendations import RecommendationRecord, RecommendParameters
from snf_models.evaluation.report import render_html
from snf_models.limits.card import limit_chart
from snf_runtime.errors import FAILED, USAGE

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)

commands = typer.Typer(rich_markup_mode="markdown")


@commands.command()
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
    if out is not None:
        check_new(out, (".html",), force=force)
    given = {"against": against or [], "masks": _masks(masks or []), "corruptions": corruptions}
    given |= {"images": images, "alpha": alpha, "adapt": adapt}
    parameters = _parameters(EvaluationParameters, given, "--against")
    if url:
        with service(url, key) as client:
            job = client.jobs.evaluate(normal, model, parameters=_sent(parameters))
            report = _result(client, job, EvaluationReport, quiet=as_json)
    else:
        with error_messages():
            from snf_app.cli.local_work import evaluate_here  # noqa: PLC0415 - PyTorch takes seconds

            report = evaluate_here(model, normal, parameters)
    # Printed first, so that the result of long work is not lost if the file cannot be written.
    if as_json:
        typer.echo(report.model_dump_json(indent=2, ensure_ascii=True))
    else:
        print_report(report)
    if out is not None:
        write_out(out, render_html(report).encode())
        typer.echo(f"the report is in {out}", err=as_json)


@commands.command()
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
    if out is not None:
        check_new(out, (".svg",), force=force)
    given = {"alpha": alpha, "images": images, "shapes": shapes, "contrasts": contrasts, "seed": seed}
    given = {name: value for name, value in given.items() if value is not None}
    parameters = _parameters(LimitParameters, given, "limit", LimitParameters.model_fields)
    if url:
        with service(url, key) as client:
            dataset = data or client.models.get(model).calibration.dataset
            if dataset is None:
                raise fail(f"the calibration of {model} is damaged: name a dataset of good images with --data", FAILED)
            job = client.jobs.limit(dataset, model, parameters=_sent(parameters))
            found = _result(client, job, LimitResult, quiet=as_json)
            measured = client.limits.get(found.ref, found.limit)
        number, record = found.limit, LimitRecord.model_validate(measured.limit.model_dump())
    else:
        with error_messages():
            from snf_app.cli.local_work import limit_here  # noqa: PLC0415 - PyTorch takes seconds

            number, record = limit_here(model, data, parameters)
    print_result(record, as_json, lambda record: print_limit(number, record))
    if out is not None:
        write_out(out, limit_chart(record).encode())
        typer.echo(f"the picture is in {out}", err=as_json)


@commands.command()
def recommend(
    dataset: Annotated[str, typer.Argument(help="Dataset, see `snf datasets`.", autocompletion=completion.datasets)],
    minutes: Annotated[float, typer.Option(help="About the time of the whole comparison.")] = 10.0,
    alpha: Annotated[
        float, typer.Option(help="False-alarm rate; the smallest p-value is taken where that is larger.")
    ] = 0.01,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other parameter as NAME=VALUE, such as image_size=64; repeatable."),
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Compare three model families (pixels, features, both) on a subset of a dataset, and propose one.

    Each family is trained on images of the train part. Small defects are drawn into others of them. The family that
    finds the smallest ones is proposed. Ctrl-C keeps what is finished; the same command continues.
    """
    given = {"minutes": minutes, "alpha": alpha} | parse_pairs(set_ or [], "--set")
    parameters = _parameters(RecommendParameters, given, "--set", RecommendParameters.model_fields)
    if url:
        with service(url, key) as client:
            sent = parameters.model_dump(mode="json", exclude_unset=True)
            job = client.jobs.recommend(dataset, parameters=sent)
            record = _result(client, job, RecommendationRecord, quiet=as_json)
    else:
        with error_messages():
            from snf_app.cli.local_work import recommend_here  # noqa: PLC0415 - PyTorch takes seconds

            record = recommend_here(dataset, parameters)
    print_result(record, as_json, print_recommendation)


def _masks(given: list[str]) -> dict[str, str]:
    """Return the dataset of masks by the dataset of anomalous images, from options such as ``bad-parts=bad-masks``."""
    pairs = [option.partition("=") for option in given]
    for option, (against, _, masks) in zip(given, pairs, strict=True):
        if not against or not masks:
            raise fail(f"--masks: expected AGAINST=MASKS, such as bad-parts=bad-masks, got {option!r}", USAGE)
    return {against: masks for against, _, masks in pairs}


def _parameters(schema: type[P], given: dict[str, Any], whole: str, known: Collection[str] = ()) -> P:
    """Return the parameters of a measurement; exit with code 2 if one is wrong."""
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise fail_validation(error, whole, known) from error


def _sent(parameters: BaseModel) -> dict[str, Any]:
    return parameters.model_dump(mode="json", exclude_defaults=True)


def _result(client: Client, job: JobView, schema: type[R], *, quiet: bool) -> R:
    """Follow a job to its end, and return its result; exit with code 3 if it is of another kind."""
    if not quiet:
        typer.echo(f"job {job.id}; Ctrl-C stops watching, not the job")
    with events_bar() as observe:
        follow_job(client, job.id, observe)
    result = client.jobs.result(job.id)
    if not isinstance(result, schema):
        raise fail(f"expected a {schema.__name__} as the result of job {job.id}, got a {type(result).__name__}", FAILED)
    return result
