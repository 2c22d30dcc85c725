# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from snf_app.cli import completion
from snf_app.cli.common import (
    Json,
    Key,
    ServiceUrl,
    Url,
    client_schema,
    error_messages,
    fail,
    print_deleted,
    print_response,
    read_settings,
    refuse_before_subcommand,
    registry,
    url_option,
)
from snf_app.cli.drift import drift
from snf_app.cli.job_tables import outcome
from snf_app.cli.live import live_view
from snf_app.cli.model_files import Ref, audit, card, export, import_model
from snf_app.cli.model_tables import print_calibrations, print_comparison, print_model, print_models
from snf_app.cli.remote import follow_job, service, service_url
from snf_runtime.errors import USAGE

if TYPE_CHECKING:
    from snf_client.schemas.calibrations import CalibrationComparison, CalibrationList

HELP = "List, show, calibrate, alias and delete models. Without a subcommand: list."
models = typer.Typer(help=HELP, invoke_without_command=True)

Name = Annotated[str, typer.Argument(help="Name of the model.", show_default=False, autocompletion=completion.models)]


@models.callback(help=HELP)
def list_by_default(context: typer.Context, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Run ``snf models list`` if ``snf models`` is called without a subcommand."""
    if context.invoked_subcommand is None:
        list_models(url, key, as_json)
    else:
        refuse_before_subcommand(context)


@models.command("list")
def list_models(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the models with their versions, architecture, image size, test bits/dim and loading state."""
    if url:
        with service(url, key) as client:
            page = client.models.list()
    else:
        with error_messages():
            from snf_app.registry.model_pool import ModelPool, memory_limit
            from snf_app.registry.service import summary
            from snf_client.schemas.models import ModelPage
            from snf_client.schemas.models import ModelPage as ClientPage

            settings = read_settings()
            listing = ModelPool(registry(), settings.engine_options, memory_limit(settings)).listing()
            page = client_schema(ClientPage, ModelPage(models=[summary(model) for model in listing]))
    if as_json:
        print_response(page)
    else:
        print_models(page)


models.command()(card)
models.command()(audit)
models.command()(drift)
models.command()(export)
models.command("import")(import_model)


@models.command("import-published", hidden=True, context_settings={"ignore_unknown_options": True})
def import_published(_arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Refuse an earlier command by its name."""
    raise fail("snf models import-published has been removed", USAGE)


@models.command()
def calibrations(model: Ref, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List a model's calibrations: dataset, image counts, and the p-value threshold for at most 1 % false alarms."""
    if url:
        with service(url, key) as client:
            listed = client.calibrations.list(model)
    else:
        with error_messages():
            from snf_app.calibrations.service import listing
            from snf_client.schemas.calibrations import CalibrationList

            listed = client_schema(CalibrationList, listing(registry(), model))
    _print_calibrations(listed, as_json)


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
        elif as_json:
            print_response(job)
        else:
            typer.echo(f"{job.id} is {job.status}")


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
    if dry_run:
        _print_comparison(_compared(model, number, url, key), as_json)
        return
    if url:
        with service(url, key) as client:
            chosen = client.calibrations.choose(model, number)
    else:
        with error_messages():
            from snf_app.calibrations.service import choose
            from snf_client.schemas.calibrations import CalibrationList

            chosen = client_schema(CalibrationList, choose(registry(), model, number))
    _print_calibrations(chosen, as_json)


@models.command("show")
def show_model(model: Ref, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show a model's architecture, training, test bits/dim, calibration and serving engine.

    With --json its manifest is printed, too.
    """
    if url:
        with service(url, key) as client:
            shown = client.models.get(model)
    else:
        with error_messages():
            from snf_app.calibrations.service import view_of
            from snf_app.registry.service import detail
            from snf_client.schemas.models import ModelDetail

            local = registry()
            version = local.resolve(model)
            calibration = view_of(local, version.name, version.version, version.calibration)
            shown = client_schema(ModelDetail, detail(version, calibration, None))
    if as_json:
        print_response(shown)
    else:
        print_model(shown)


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
    from snf_client.schemas.models import Aliases

    if url:
        with service(url, key) as client:
            if version is None:
                client.models.delete_alias(name, label)
                moved = None
            else:
                moved = client.models.set_alias(name, label, version)
    else:
        with error_messages():
            from snf_app.registry.service import unfit_reasons
            from snf_client.schemas.models import Aliases as ServiceAliases

            local = registry()
            if version is None:
                local.remove_alias(name, label)
                moved = None
            else:
                previous = local.set_alias(name, label, version)
                unfit = unfit_reasons(local.unfit(name, version))
                moved = client_schema(
                    Aliases,
                    ServiceAliases(name=name, aliases=local.aliases(name), previous=previous, unfit=unfit),
                )
    if moved is None:
        print_deleted(f"{name}@{label}", as_json=as_json)
    elif as_json:
        print_response(moved)
    else:
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
        from snf_models.naming import is_version

        if not is_version(number):
            raise fail(f"expected NAME:VERSION, such as {name}:3, got {name}:{number}", USAGE)
        version = int(number)
    if url:
        with service(url, key) as client:
            if version is None:
                client.models.delete(name)
            else:
                client.models.delete_version(name, version)
    else:
        from snf_models.disk import locked

        with error_messages(), locked(read_settings().jobs_dir):
            _refuse_used(name, version)
            if version is None:
                registry().remove_model(name)
            else:
                registry().remove(name, version)
    print_deleted(name if version is None else f"{name}:{version}", as_json=as_json)


def _refuse_used(name: str, version: int | None) -> None:
    from snf_app.jobs.service import refuse_used_model, refuse_used_version
    from snf_worker.broker.connection import redis_client
    from snf_worker.errors import BrokerDown
    from snf_worker.jobs.store import JobStore

    settings = read_settings()
    jobs = JobStore(redis_client(settings), settings.key_prefix)
    try:
        if version is None:
            refuse_used_model(jobs, name)
        else:
            refuse_used_version(jobs, name, version)
    except BrokerDown:
        typer.echo("snf: the job store does not answer; a queued job that uses this model will fail", err=True)


def _compared(model: str, number: int, url: str | None, key: str | None) -> CalibrationComparison:
    if url:
        with service(url, key) as client:
            return client.calibrations.compare(model, number)
    with error_messages():
        from snf_app.calibrations.service import compare
        from snf_client.schemas.calibrations import CalibrationComparison

        return client_schema(CalibrationComparison, compare(registry(), model, number))


def _print_comparison(comparison: CalibrationComparison, as_json: bool) -> None:
    if as_json:
        print_response(comparison)
    else:
        print_comparison(comparison)


def _print_calibrations(calibrations: CalibrationList, as_json: bool) -> None:
    if as_json:
        print_response(calibrations)
    else:
        print_calibrations(calibrations)
