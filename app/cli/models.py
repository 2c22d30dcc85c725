# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf models`: what there is, and what each is calibrated on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from app.cli import completion
from app.cli.common import USAGE, Json, Key, Url, errors_for_people, fail, print_answer, say_deleted
from app.cli.job_tables import outcome
from app.cli.jobs import ServiceUrl
from app.cli.live import live_view
from app.cli.model_files import Ref, audit, card, export, import_model, registry
from app.cli.model_table import print_model
from app.cli.model_tables import list_models, print_calibrations
from app.cli.remote import followed, service, this_machine

if TYPE_CHECKING:
    from app.calibrations.schemas import CalibrationList

models = typer.Typer(
    help="List the models, calibrate them on other images; alone it lists.", invoke_without_command=True
)

Arithmetic = Literal["float32", "bfloat16"]
Name = Annotated[str, typer.Argument(help="The model's name.", show_default=False, autocompletion=completion.models)]


@models.callback()
def alone(context: typer.Context, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the models, calibrate them on other images; alone it lists."""
    if context.invoked_subcommand is None:
        list_models(url, key, as_json)


models.command("list")(list_models)
models.command()(card)
models.command()(audit)
models.command()(export)
models.command("import")(import_model)


@models.command()
def calibrations(model: Ref, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the calibrations of a model, with thresholds that keep a false-alarm rate."""
    if url:
        with service(url, key) as client:
            found = client.calibrations.list(model)
    else:
        with errors_for_people():
            from app.calibrations.views import listing

            found = listing(registry(), model)
    _show(found, as_json)


@models.command()
def calibrate(
    model: Ref,
    dataset: Annotated[
        str,
        typer.Option("--dataset", "-d", help="Images like those to be scored.", autocompletion=completion.datasets),
    ],
    activate: Annotated[bool, typer.Option("--activate/--keep", help="Use the new calibration from then on.")] = True,
    precision: Annotated[Arithmetic, typer.Option(help="Arithmetic of scores while it is in use.")] = "float32",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for the end, with a progress bar.")] = False,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Calibrate a model on other images, without training, as a job of a running service."""
    with service(this_machine(url), key) as client:
        job = client.calibrations.create(model, dataset, activate=activate, precision=precision)
        if follow:
            with live_view(as_json) as observe:
                job = followed(client, job.id, observe)
            if not as_json:
                typer.echo(outcome(job))
        elif as_json:
            print_answer(job)
        else:
            typer.echo(f"{job.id} is {job.status}")


@models.command("use-calibration")
def use_calibration(
    model: Ref,
    number: Annotated[int, typer.Argument(min=0, help="0 is the one that the model came with.", show_default=False)],
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Use another calibration, an earlier one too; a running service goes over to it by itself."""
    if url:
        with service(url, key) as client:
            found = client.calibrations.choose(model, number)
    else:
        with errors_for_people():
            from app.calibrations.views import choose

            found = choose(registry(), model, number)
    _show(found, as_json)


@models.command("show")
def show_model(model: Ref, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show what a model is, what it learned from, how good it is and how it is served; as JSON with its manifest."""
    if url:
        with service(url, key) as client:
            found = client.models.get(model)
    else:
        with errors_for_people():
            from app.calibrations.views import view_of
            from app.registry.views import detail

            here = registry()
            version = here.resolve(model)
            found = detail(version, view_of(here, version.name, version.version, version.calibration), None)
    if as_json:
        print_answer(found)
    else:
        print_model(found)


@models.command()
def alias(
    name: Name,
    label: Annotated[str, typer.Argument(metavar="ALIAS", help="`live` is what the plain name means.")],
    version: Annotated[int | None, typer.Argument(min=1, help="The version that it shall mean.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the alias away instead.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Point an alias at a version of a model, or take it away; a running service goes over to it by itself."""
    if (version is None) != remove:
        raise fail("an alias wants either a version or --remove", USAGE)
    from app.registry.schemas import Aliases

    if url:
        with service(url, key) as client:
            if version is None:
                client.models.delete_alias(name, label)
                found = None
            else:
                found = client.models.set_alias(name, label, version)
    else:
        with errors_for_people():
            models_here = registry()
            if version is None:
                models_here.remove_alias(name, label)
                found = None
            else:
                previous = models_here.set_alias(name, label, version)
                found = Aliases(name=name, aliases=models_here.aliases(name), previous=previous)
    if found is None:
        typer.echo(f"{name}@{label} is no more", err=as_json)
    elif as_json:
        print_answer(found)
    else:
        before = "" if found.previous is None else f", before {found.previous}"
        typer.echo(f"{name}@{label} is version {found.aliases[label]}{before}")


@models.command()
def delete(
    name: Name,
    version: Annotated[int | None, typer.Argument(min=1, help="The version.", show_default=False)] = None,
    whole: Annotated[bool, typer.Option("--all", help="All versions, the live one too.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Delete a version of a model with its calibrations, which is refused while an alias points at it, or all of it."""
    if (version is None) != whole:
        raise fail("delete wants either a version or --all", USAGE)
    if url:
        with service(url, key) as client:
            if version is None:
                client.models.delete(name)
            else:
                client.models.delete_version(name, version)
    else:
        with errors_for_people():
            if version is None:
                registry().remove_model(name)
            else:
                registry().remove(name, version)
    say_deleted(name if version is None else f"{name}:{version}", as_json=as_json)


def _show(found: CalibrationList, as_json: bool) -> None:
    if as_json:
        print_answer(found)
    else:
        print_calibrations(found)
