"""Command ``snf models``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markdown import Markdown

from snf_app.cli import completion
from snf_app.cli.common import Ref, fail
from snf_app.cli.job_tables import print_outcome
from snf_app.cli.jobs import print_status
from snf_app.cli.live import live_view
from snf_app.cli.model_files import models
from snf_app.cli.model_tables import (
    print_audit,
    print_calibrations,
    print_comparison,
    print_drift,
    print_model,
    print_models,
)
from snf_app.cli.output import spinner
from snf_app.cli.service import Session, command, print_deleted
from snf_client.schemas.calibrations import CalibrationList
from snf_client.schemas.models import Aliases, ModelDetail, ModelPage
from snf_models.naming import is_version
from snf_runtime.errors import ANOMALY, USAGE

commands = typer.Typer(rich_markup_mode="markdown")
commands.add_typer(models, name="models")

Name = Annotated[str, typer.Argument(help="Name of the model.", autocompletion=completion.models)]


@command(models, "list", show=print_models)
def list_models(session: Session) -> ModelPage:
    """List the models with their versions, architecture, image size, test bits/dim and loading state."""
    return session.client.models.list()


@command(models, as_json=False)
def card(session: Session, model: Ref) -> None:
    """Show the model card, a text about the purpose, training, measured quality and limits of a model."""
    text, console = session.client.models.card(model), Console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        typer.echo(text, nl=False)


@command(models)
def audit(
    session: Session,
    model: Ref,
    n: Annotated[int, typer.Option("-n", min=1, max=16, help="Number of images.")] = 4,
) -> None:
    """Check a model's scores by recomputing the log-likelihoods of some images in float64.

    The images are stored with the model. If they are too few, samples are added, where the model can generate them.

    Exit code 1: the scores do not agree.
    """
    with spinner(f"auditing {model}"):
        audited = session.client.models.audit(model, n=n)
    session.print(audited, print_audit)
    if not audited.agrees:
        raise typer.Exit(ANOMALY)


@command(models, in_process=False)
def drift(
    session: Session,
    model: Ref,
    acknowledge: Annotated[
        bool,
        typer.Option(
            "--acknowledge", help="End the alarm of a --source, or of all sources together, and start its test anew."
        ),
    ] = False,
    source: Annotated[str | None, typer.Option(help="Source whose alarm is acknowledged.")] = None,
) -> None:
    """Show whether the images that a service scored with a model differ from its calibration images.

    Only images that name a source, such as a camera, are watched. The result is shown for all sources together and for
    each source.

    With --acknowledge, end an alarm: the test starts anew at the next image.
    """
    if source is not None and not acknowledge:
        raise fail("--source names what is acknowledged: add --acknowledge", USAGE)
    if not acknowledge:
        session.print(session.client.models.drift(model), print_drift)
        return
    session.client.models.acknowledge_drift(model, source)
    line = f"acknowledged drift of {model}: {'all sources together' if source is None else source}"
    session.print({"acknowledged": model, "source": source}, lambda _: typer.echo(line))


@command(models, show=print_calibrations)
def calibrations(session: Session, model: Ref) -> CalibrationList:
    """List a model's calibrations: dataset, image counts, and the p-value threshold for at most 1 % false alarms."""
    return session.client.calibrations.list(model)


@command(models, in_process=False)
def calibrate(
    session: Session,
    model: Ref,
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset", "-d", help="Dataset of images like those to be scored.", autocompletion=completion.datasets
        ),
    ],
    activate: Annotated[
        bool | None,
        typer.Option(
            "--activate/--keep",
            help="Make the new calibration the active one, or not. Without either: unless it is coarser than the one "
            "in use.",
        ),
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Arithmetic of scores while the calibration is active.")
    ] = "float32",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait until the job is finished, with a progress bar.")
    ] = False,
) -> None:
    """Fit a model's p-values to a dataset of normal images, without training the model.

    A running service does this as a job.
    """
    job = session.client.calibrations.create(model, dataset, activate=activate, precision=precision)
    if not follow:
        session.print(job, print_status)
        return
    with live_view(session.as_json) as observe:
        job = session.follow(job.id, observe)
    if not session.as_json:
        print_outcome(job.result or {}, session.option)


@command(models, "use-calibration")
def use_calibration(
    session: Session,
    model: Ref,
    number: Annotated[
        int,
        typer.Argument(min=0, help="Number of the calibration; 0 is the one that the model was published with."),
    ],
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Change nothing; show what would change beside the calibration in use. --url adds verdicts.",
        ),
    ] = False,
) -> None:
    """Select which calibration of a model gives the p-values of scored images from now on.

    A running service uses it within about two seconds.

    With --dry-run nothing changes: smallest alpha, threshold and, of a running service, the verdicts on its newest
    images are shown before and after.
    """
    if dry_run:
        session.print(session.client.calibrations.compare(model, number), print_comparison)
    else:
        session.print(session.client.calibrations.choose(model, number), print_calibrations)


@command(models, "show", show=print_model)
def show_model(session: Session, model: Ref) -> ModelDetail:
    """Show a model's architecture, training, test bits/dim, calibration and serving engine.

    With --json its manifest is printed, too.
    """
    return session.client.models.get(model)


@command(models)
def alias(
    session: Session,
    name: Name,
    label: Annotated[
        str, typer.Argument(metavar="ALIAS", help="Name of the alias; `live` is the version of the plain name.")
    ],
    version: Annotated[int | None, typer.Argument(min=1, help="Version that the alias points at.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the alias.")] = False,
) -> None:
    """Point an alias, such as `live`, at a version of a model, or delete it.

    A running service follows within about two seconds.
    """
    if (version is None) != remove:
        raise fail("expected either a version or --remove", USAGE)
    if version is None:
        session.client.models.delete_alias(name, label)
        session.print({"deleted": f"{name}@{label}"}, print_deleted)
        return

    def show(moved: Aliases) -> None:
        before = "" if moved.previous is None else f", before {moved.previous}"
        typer.echo(f"{name}@{label} is version {moved.aliases[label]}{before}")
        for reason in moved.unfit:
            typer.secho(f"unfit: {reason.detail}", fg=typer.colors.RED)

    session.print(session.client.models.set_alias(name, label, version), show)


@command(models, show=print_deleted)
def delete(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the model, or NAME:VERSION.", autocompletion=completion.models)],
    version: Annotated[int | None, typer.Argument(min=1, help="Version to delete.")] = None,
    whole: Annotated[bool, typer.Option("--all", help="Delete all versions.")] = False,
) -> dict[str, str]:
    """Delete a version of a model with its calibrations, or with --all the whole model.

    A version that an alias points at cannot be deleted alone.
    """
    name, colon, number = name.partition(":")
    if [version is not None, bool(colon), whole].count(True) != 1:
        raise fail("expected either a version, as in NAME:3, or --all", USAGE)
    if whole:
        session.client.models.delete(name)
        return {"deleted": name}
    if colon and not is_version(number):
        raise fail(f"expected NAME:VERSION, such as {name}:3, got {name}:{number}", USAGE)
    version = version or int(number)
    session.client.models.delete_version(name, version)
    return {"deleted": f"{name}:{version}"}
