"""Command ``snf models``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from snf_app.cli import completion, model_files
from snf_app.cli.common import (
    Json,
    Key,
    ListingGroup,
    ServiceUrl,
    Url,
    fail,
    print_deleted,
    print_json,
    print_response,
    print_result,
    url_option,
)
from snf_app.cli.job_tables import outcome
from snf_app.cli.live import live_view
from snf_app.cli.model_files import Ref
from snf_app.cli.model_tables import print_calibrations, print_comparison, print_drift, print_model, print_models
from snf_app.cli.service import follow_job, service, service_url
from snf_models.naming import is_version
from snf_runtime.errors import USAGE

commands = typer.Typer(rich_markup_mode="markdown")
models = typer.Typer(cls=ListingGroup)
commands.add_typer(models, name="models")

Name = Annotated[str, typer.Argument(help="Name of the model.", show_default=False, autocompletion=completion.models)]


@models.command("list")
def list_models(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the models with their versions, architecture, image size, test bits/dim and loading state."""
    with service(url, key) as client:
        page = client.models.list()
    print_result(page, as_json, print_models)


models.command()(model_files.card)
models.command()(model_files.audit)


@models.command()
def drift(
    model: Ref,
    acknowledge: Annotated[
        bool,
        typer.Option(
            "--acknowledge", help="End the alarm of a --source, or of all sources together, and start its test anew."
        ),
    ] = False,
    source: Annotated[
        str | None, typer.Option("--source", help="Source whose alarm is acknowledged.", show_default=False)
    ] = None,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show whether the images that a service scored with a model differ from its calibration images.

    Only images that name a source, such as a camera, are watched. The result is shown for all sources together and for
    each source.

    With --acknowledge, end an alarm: the test starts anew at the next image.
    """
    if source is not None and not acknowledge:
        raise fail("--source names what is acknowledged: add --acknowledge", USAGE)
    with service(service_url(url), key) as client:
        if not acknowledge:
            print_result(client.models.drift(model), as_json, print_drift)
            return
        client.models.acknowledge_drift(model, source)
    if as_json:
        print_json({"acknowledged": model, "source": source})
    else:
        typer.echo(f"acknowledged drift of {model}: {'all sources together' if source is None else source}")


models.command()(model_files.export)
models.command("import")(model_files.import_model)


@models.command("import-published", hidden=True, context_settings={"ignore_unknown_options": True})
def import_published(_arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Refuse an earlier command by its name."""
    raise fail("snf models import-published has been removed", USAGE)


@models.command()
def calibrations(model: Ref, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List a model's calibrations: dataset, image counts, and the p-value threshold for at most 1 % false alarms."""
    with service(url, key) as client:
        listed = client.calibrations.list(model)
    print_result(listed, as_json, print_calibrations)


@models.command()
def calibrate(
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
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Arithmetic of scores while the calibration is active.")
    ] = "float32",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait until the job is finished, with a progress bar.")
    ] = False,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Fit a model's p-values to a dataset of normal images, without training the model.

    A running service does this as a job.
    """
    with service(service_url(url), key) as client:
        job = client.calibrations.create(model, dataset, activate=activate, precision=precision)
        if follow:
            with live_view(as_json) as observe:
                job = follow_job(client, job.id, observe)
            if not as_json:
                typer.echo(outcome(job, url_option(url)))
        else:
            print_result(job, as_json, lambda job: typer.echo(f"{job.id} is {job.status}"))


@models.command("use-calibration")
def use_calibration(
    model: Ref,
    number: Annotated[
        int,
        typer.Argument(
            min=0, help="Number of the calibration; 0 is the one that the model was published with.", show_default=False
        ),
    ],
    url: Url = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Change nothing; show what would change beside the calibration in use. --url adds verdicts.",
        ),
    ] = False,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Select which calibration of a model gives the p-values of scored images from now on.

    A running service uses it within about two seconds.

    With --dry-run nothing changes: smallest alpha, threshold and, of a running service, the verdicts on its newest
    images are shown before and after.
    """
    with service(url, key) as client:
        if dry_run:
            print_result(client.calibrations.compare(model, number), as_json, print_comparison)
        else:
            print_result(client.calibrations.choose(model, number), as_json, print_calibrations)


@models.command("show")
def show_model(model: Ref, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show a model's architecture, training, test bits/dim, calibration and serving engine.

    With --json its manifest is printed, too.
    """
    with service(url, key) as client:
        shown = client.models.get(model)
    print_result(shown, as_json, print_model)


@models.command()
def alias(
    name: Name,
    label: Annotated[
        str, typer.Argument(metavar="ALIAS", help="Name of the alias; `live` is the version of the plain name.")
    ],
    version: Annotated[int | None, typer.Argument(min=1, help="Version that the alias points at.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the alias.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Point an alias, such as `live`, at a version of a model, or delete it.

    A running service follows within about two seconds.
    """
    if (version is None) != remove:
        raise fail("expected either a version or --remove", USAGE)
    with service(url, key) as client:
        if version is None:
            client.models.delete_alias(name, label)
            print_deleted(f"{name}@{label}", as_json=as_json)
            return
        moved = client.models.set_alias(name, label, version)
    if as_json:
        print_response(moved)
        return
    before = "" if moved.previous is None else f", before {moved.previous}"
    typer.echo(f"{name}@{label} is version {moved.aliases[label]}{before}")
    for reason in moved.unfit:
        typer.secho(f"unfit: {reason.detail}", fg=typer.colors.RED)


@models.command()
def delete(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of the model, or NAME:VERSION.", show_default=False, autocompletion=completion.models
        ),
    ],
    version: Annotated[int | None, typer.Argument(min=1, help="Version to delete.", show_default=False)] = None,
    whole: Annotated[bool, typer.Option("--all", help="Delete all versions.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Delete a version of a model with its calibrations, or with --all the whole model.

    A version that an alias points at cannot be deleted alone.
    """
    name, colon, number = name.partition(":")
    if [version is not None, bool(colon), whole].count(True) != 1:
        raise fail("expected either a version, as in NAME:3, or --all", USAGE)
    if colon:
        if not is_version(number):
            raise fail(f"expected NAME:VERSION, such as {name}:3, got {name}:{number}", USAGE)
        version = int(number)
    with service(url, key) as client:
        if version is None:
            client.models.delete(name)
        else:
            client.models.delete_version(name, version)
    print_deleted(name if version is None else f"{name}:{version}", as_json=as_json)
