# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf models`: what there is, and what each is calibrated on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from app.commands import completion
from app.commands.common import ANOMALY, USAGE, Json, Key, Url, errors_for_people, fail, print_answer, settings
from app.commands.jobs import ServiceUrl, outcome
from app.commands.listings import list_models, print_audit, print_calibrations
from app.commands.live import live_view
from app.commands.progress import bytes_bar, images_bar, waiting
from app.commands.service import followed, service, this_machine

if TYPE_CHECKING:
    from app.audit_schemas import Audit
    from app.calibration_schemas import CalibrationList
    from models.registry import Registry

models = typer.Typer(
    help="List the models, calibrate them on other images; alone it lists.", invoke_without_command=True
)

Arithmetic = Literal["float32", "bfloat16"]
Name = Annotated[str, typer.Argument(help="The model's name.", show_default=False, autocompletion=completion.models)]
NewName = Annotated[str, typer.Argument(help="The name that it becomes the next version of.", show_default=False)]
Ref = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="NAME, NAME:VERSION or NAME@ALIAS.",
        show_default=False,
        autocompletion=completion.models,
    ),
]


@models.callback()
def alone(context: typer.Context, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the models, calibrate them on other images; alone it lists."""
    if context.invoked_subcommand is None:
        list_models(url, key, as_json)


models.command("list")(list_models)


@models.command()
def calibrations(model: Ref, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the calibrations of a model, with thresholds that keep a false-alarm rate."""
    if url:
        with service(url, key) as client:
            found = client.calibrations.list(model)
    else:
        with errors_for_people():
            from app.calibration_views import listing

            found = listing(_registry(), model)
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
            from app.calibration_views import choose

            found = choose(_registry(), model, number)
    _show(found, as_json)


@models.command("show")
def show_model(model: Ref, url: Url = None, key: Key = None) -> None:
    """Show the manifest of a model, its calibration in use and how it is served, as JSON."""
    if url:
        with service(url, key) as client:
            print_answer(client.models.get(model))
    else:
        with errors_for_people():
            print_answer(_registry().resolve(model).manifest)


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
    from app.version_schemas import Aliases

    if url:
        with service(url, key) as client:
            if version is None:
                client.models.delete_alias(name, label)
                found = None
            else:
                found = client.models.set_alias(name, label, version)
    else:
        with errors_for_people():
            registry = _registry()
            if version is None:
                registry.remove_alias(name, label)
                found = None
            else:
                previous = registry.set_alias(name, label, version)
                found = Aliases(name=name, aliases=registry.aliases(name), previous=previous)
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
    version: Annotated[int, typer.Argument(min=1, help="The version.", show_default=False)],
    url: Url = None,
    key: Key = None,
) -> None:
    """Delete a version of a model with its calibrations; refused while an alias points at it."""
    if url:
        with service(url, key) as client:
            client.models.delete_version(name, version)
    else:
        with errors_for_people():
            _registry().remove(name, version)
    typer.echo(f"deleted {name}:{version}")


@models.command()
def card(model: Ref, url: Url = None, key: Key = None) -> None:
    """Read the card of a model: what it is, how well it does, how it was trained, what it cannot do."""
    if url:
        with service(url, key) as client:
            text = client.models.card(model)
    else:
        with errors_for_people():
            from models.artifact_files import CARD, read_file

            text = read_file(_folder(model), CARD).decode(errors="replace")
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        typer.echo(text, nl=False)


@models.command()
def audit(
    model: Ref,
    n: Annotated[int, typer.Option("-n", min=1, max=16, help="Number of images.")] = 4,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Score images of a model again in float64 with nothing cached; exit code 1 where the numbers do not agree."""
    if url:
        with service(url, key) as client, waiting(f"auditing {model}"):
            found = client.models.audit(model, n=n)
    else:
        with errors_for_people(), images_bar("auditing", n) as advance:
            found = _audit(model, n, advance)
    if as_json:
        print_answer(found)
    else:
        print_audit(found)
    if not found.agrees:
        raise typer.Exit(ANOMALY)


@models.command()
def export(
    model: Ref,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The tar. [default: NAME-VERSION.tar]")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Write a version of a model into a tar, which `snf models import` takes."""
    target = out or Path(f"{model.replace(':', '-').replace('@', '-')}.tar")
    if not target.absolute().parent.is_dir():
        raise fail(f"the folder of {target} does not exist", USAGE)
    if url:
        with service(url, key) as client, waiting(f"fetching {model}"):
            client.models.download(model, target)
    else:
        with errors_for_people():
            from models.artifact_tar import pack

            packed = pack(_folder(model))
            with target.open("wb") as file:
                file.writelines(packed.pieces)
    typer.echo(f"{model} is in {target}")


@models.command("import")
def import_model(
    name: NewName,
    tar: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What `snf models export` wrote.")],
    promote: Annotated[bool, typer.Option("--promote", help="Make the new version the live one.")] = False,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Bring a model into a running service as the next version of a name; the service verifies it first."""
    with service(this_machine(url), key) as client, bytes_bar("sending", "verifying the model") as told:
        found = client.models.upload(name, tar, promote=promote, progress=told)
    if as_json:
        print_answer(found)
    else:
        typer.echo(f"registered {found.name}:{found.version}")


def _audit(model: str, n: int, advance: Callable[[int], None]) -> Audit:
    from app.audit_views import audit_view
    from app.serving import Loaded
    from models.scoring.audit import audit as run
    from models.scoring.scorer import Scorer

    version = _registry().resolve(model)
    loaded = Loaded(version, Scorer.load(version.path, version.calibration_path, settings().engine_options))
    audited = []
    for index in range(n):
        audited.append(run(loaded.scorer, index))
        advance(1)
    return audit_view(loaded, audited)


def _folder(model: str) -> Path:
    from models.calibrations import OWN
    from models.registry import parse_ref

    registry = _registry()
    # Whatever state its calibrations are in, a model has its files.
    return registry.with_calibration(*registry.locate(parse_ref(model)), OWN).path


def _registry() -> Registry:
    from models.registry import Registry

    return Registry(settings().registry_dir)


def _show(found: CalibrationList, as_json: bool) -> None:
    if as_json:
        print_answer(found)
    else:
        print_calibrations(found)
