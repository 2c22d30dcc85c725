# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf evaluate`: how well a model tells normal images from others, beside trivial baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import completion
from app.cli.common import SERVICE, USAGE, Json, Key, Model, Url, errors_for_people, fail, settings
from app.cli.progress import labelled_bar
from app.cli.remote import followed, service
from app.cli.train import INTERRUPTED, stop_on_signals

if TYPE_CHECKING:
    from models.evaluation.schema import EvaluationParameters, EvaluationReport


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
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Also against normal images with graded faults.")
    ] = False,
    images: Annotated[int, typer.Option(help="Most images of a set.")] = 10_000,
    alpha: Annotated[
        float | None, typer.Option(help="A false-alarm rate beside 0.01 and 0.05.", show_default=False)
    ] = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Also the combined score with gradients; takes far longer.")
    ] = False,
    adapt: Annotated[
        bool, typer.Option("--adapt", help="Convert size and colour where the model would refuse an image.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the report as an HTML page.", show_default=False)
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model: AUROC, AUPR, FPR at 95 % TPR, false alarms, always beside trivial baselines."""
    from app.cli.evaluation_tables import print_report
    from models.atomic_files import write_atomically
    from models.evaluation.report import render_html

    if out is not None and not out.absolute().parent.is_dir():
        raise fail(f"the folder of {out} does not exist", USAGE)
    parameters = _parameters(
        {
            "against": against or [],
            "corruptions": corruptions,
            "images": images,
            "alpha": alpha,
            "thorough": thorough,
            "adapt": adapt,
        }
    )
    if url:
        report = _remote(model, normal, parameters, url, key, quiet=as_json)
    else:
        with errors_for_people():
            report = _local(model, normal, parameters)
    # Printed first: what took long is not lost with a file that cannot be written.
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        print_report(report)
    if out is not None:
        write_atomically(out.absolute(), render_html(report).encode())
        typer.echo(f"the report is in {out}", err=as_json)


def _parameters(given: dict[str, object]) -> EvaluationParameters:
    from pydantic import ValidationError

    from models.evaluation.schema import EvaluationParameters

    try:
        return EvaluationParameters.model_validate(given)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or '--against'}: {item['msg']}" for item in error.errors()]
        raise fail("; ".join(lines), USAGE) from error


def _local(model: str, normal: str, parameters: EvaluationParameters) -> EvaluationReport:
    import torch

    from models.bulk.part import Stopped
    from models.datasets import DatasetStore
    from models.evaluation.assemble import Subject
    from models.evaluation.evaluate import evaluate as run
    from models.registry.registry import Registry
    from models.scorer import Scorer

    found = settings()
    if found.threads is not None:
        torch.set_num_threads(found.threads)
    version = Registry(found.registry_dir).resolve(model)
    subject = Subject(
        scorer=Scorer.load(version.path, version.calibration_path, found.engine_options),
        model=f"{version.name}:{version.version}",
        dataset=normal,
        parameters=parameters,
        data_dir=found.data_dir,
        store=DatasetStore(found.datasets_dir, quota=found.dataset_quota_bytes),
        calibration=version.calibration,
    )
    with stop_on_signals() as stop, labelled_bar() as observe:

        def progress(label: str, done: int, total: int) -> None:
            if stop.is_set():
                raise Stopped("asked to stop")
            observe(label, done, total)

        try:
            return run(subject, progress)
        except Stopped as error:
            raise fail("interrupted", INTERRUPTED) from error


def _remote(
    model: str, normal: str, parameters: EvaluationParameters, url: str, key: str | None, *, quiet: bool
) -> EvaluationReport:
    """Submits a job, follows it to its end and fetches its report."""
    from models.evaluation.schema import EvaluationReport

    label = ""
    with service(url, key) as client, labelled_bar() as bar:

        def observe(event: dict[str, Any]) -> None:
            nonlocal label
            if event["event"] == "log":
                label = event["message"]
            elif event["event"] == "metrics":
                bar(label, event["step"], event["steps"])

        given = parameters.model_dump(mode="json", exclude_defaults=True)
        job = client.jobs.evaluate(normal, model, parameters=given)
        if not quiet:
            typer.echo(f"job {job.id}; Ctrl-C ends the watching alone")
        followed(client, job.id, observe)
        report = client.jobs.result(job.id)
    if not isinstance(report, EvaluationReport):
        raise fail(f"the result of job {job.id} is no report", SERVICE)
    return report
