"""Commands ``snf evaluate``, ``snf limit`` and ``snf recommend``: measured here, or by a job of a service."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel

from snf_app.cli import completion
from snf_app.cli.common import Model, Pairs, Ref, checked, fail
from snf_app.cli.evaluation_tables import print_limit, print_recommendation, print_report
from snf_app.cli.jobs import parse_pairs
from snf_app.cli.output import Force, check_new, events_bar, write_out
from snf_app.cli.service import FieldsOf, Session, command
from snf_client.schemas.evaluations import EvaluationParameters, EvaluationReport
from snf_client.schemas.jobs import JobView, LimitResult
from snf_client.schemas.limits import LimitParameters
from snf_client.schemas.recommendations import RecommendationRecord, RecommendParameters
from snf_models.evaluation.report import render_html
from snf_models.limits.card import limit_chart
from snf_runtime.errors import FAILED, USAGE

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)

commands = typer.Typer(rich_markup_mode="markdown")


@command(commands)
def evaluate(
    session: Session,
    options: Annotated[dict[str, Any], FieldsOf(EvaluationParameters, "against", "masks", "calibration")],
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
            metavar="AGAINST=MASKS", help="Dataset with masks of the defects of an --against dataset; repeatable."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file for the report.")] = None,
    force: Force = False,
) -> None:
    """Measure how well a model separates normal from anomalous images, compared with trivial baselines.

    The measures include AUROC, AUPR and the rate of false alarms.
    """
    check_new(out, (".html",), force=force)
    given = options | {"against": against or [], "masks": _masks(masks or [])}
    parameters = _parameters(EvaluationParameters, given, "--against")
    if session.url:
        job = session.client.jobs.evaluate(normal, model, parameters=_sent(parameters))
        report = _result(session, job, EvaluationReport)
    else:
        from snf_app.cli.local_work import evaluate_here  # noqa: PLC0415 - PyTorch takes seconds

        report = evaluate_here(model, normal, parameters)
    # Printed first, so that the result of long work is not lost if the file cannot be written.
    session.print(report, print_report)
    _write(session, out, "report", lambda: render_html(report))


@command(commands)
def limit(
    session: Session,
    model: Ref,
    options: Annotated[dict[str, Any], FieldsOf(LimitParameters, "calibration")],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help="Dataset of good images. Default: that of the calibration, of which only unused images get defects.",
            autocompletion=completion.datasets,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="SVG file for the picture.")] = None,
    force: Force = False,
) -> None:
    """Measure detection limits, the sizes from which on a model detects at least 90 % of simulated defects.

    They are measured for each shape and contrast.
    """
    check_new(out, (".svg",), force=force)
    parameters = _parameters(LimitParameters, options, "limit", LimitParameters.model_fields)
    if session.url:
        dataset = data or session.client.models.get(model).calibration.dataset
        if dataset is None:
            raise fail(f"the calibration of {model} is damaged: name a dataset of good images with --data", FAILED)
        job = session.client.jobs.limit(dataset, model, parameters=_sent(parameters))
        found = _result(session, job, LimitResult)
        number, record = found.limit, session.client.limits.get(found.ref, found.limit).limit
    else:
        from snf_app.cli.local_work import limit_here  # noqa: PLC0415 - PyTorch takes seconds

        number, record = limit_here(model, data, parameters)
    session.print(record, lambda record: print_limit(number, record))
    _write(session, out, "picture", lambda: limit_chart(record))


@command(commands, show=print_recommendation)
def recommend(
    session: Session,
    dataset: Annotated[str, typer.Argument(help="Dataset, see `snf datasets`.", autocompletion=completion.datasets)],
    minutes: Annotated[float, typer.Option(help="About the time of the whole comparison.")] = 10.0,
    alpha: Annotated[
        float, typer.Option(help="False-alarm rate; the smallest p-value is taken where that is larger.")
    ] = 0.01,
    set_: Pairs = None,
) -> RecommendationRecord:
    """Compare three model families (pixels, features, both) on a subset of a dataset, and propose one.

    Each family is trained on images of the train part. Small defects are drawn into others of them. The family that
    finds the smallest ones is proposed. Ctrl-C keeps what is finished; the same command continues.
    """
    given = {"minutes": minutes, "alpha": alpha} | parse_pairs(set_ or [], "--set")
    parameters = _parameters(RecommendParameters, given, "--set", RecommendParameters.model_fields)
    if session.url:
        sent = parameters.model_dump(mode="json", exclude_unset=True)
        return _result(session, session.client.jobs.recommend(dataset, parameters=sent), RecommendationRecord)
    from snf_app.cli.local_work import recommend_here  # noqa: PLC0415 - PyTorch takes seconds

    return recommend_here(dataset, parameters)


def _masks(given: list[str]) -> dict[str, str]:
    """Return the dataset of masks by the dataset of anomalous images, from options such as ``bad-parts=bad-masks``."""
    pairs = [option.partition("=") for option in given]
    for option, (against, _, masks) in zip(given, pairs, strict=True):
        if not against or not masks:
            raise fail(f"--masks: expected AGAINST=MASKS, such as bad-parts=bad-masks, got {option!r}", USAGE)
    return {against: masks for against, _, masks in pairs}


def _parameters(schema: type[P], given: dict[str, Any], whole: str, known: Collection[str] = ()) -> P:
    return checked(lambda: schema.model_validate(given), whole, known)


def _sent(parameters: BaseModel) -> dict[str, Any]:
    return parameters.model_dump(mode="json", exclude_defaults=True)


def _result(session: Session, job: JobView, schema: type[R]) -> R:
    """Follow a job to its end, and return its result; exit with code 3 if it is of another kind."""
    if not session.as_json:
        typer.echo(f"job {job.id}; Ctrl-C stops watching, not the job")
    with events_bar() as observe:
        session.follow(job.id, observe)
    result = session.client.jobs.result(job.id)
    if not isinstance(result, schema):
        raise fail(f"expected a {schema.__name__} as the result of job {job.id}, got a {type(result).__name__}", FAILED)
    return result


def _write(session: Session, out: Path | None, what: str, render: Callable[[], str]) -> None:
    if out is not None:
        write_out(out, render().encode())
        typer.echo(f"the {what} is in {out}", err=session.as_json)
