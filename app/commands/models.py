# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf models`: what there is, and what each is calibrated on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.commands.common import SERVICE, Json, Key, Url, errors_for_people, fail, print_json, settings
from app.commands.jobs import ServiceUrl, outcome
from app.commands.listings import list_models, print_calibrations

if TYPE_CHECKING:
    from app.commands.remote import Remote

models = typer.Typer(
    help="List the models, calibrate them on other images; alone it lists.", invoke_without_command=True
)

Arithmetic = Literal["float32", "bfloat16"]
Ref = Annotated[str, typer.Argument(metavar="MODEL", help="NAME, NAME:VERSION or NAME@ALIAS.", show_default=False)]


@models.callback()
def alone(context: typer.Context, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the models, calibrate them on other images; alone it lists."""
    if context.invoked_subcommand is None:
        list_models(url, key, as_json)


models.command("list")(list_models)


@models.command()
def calibrations(model: Ref, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the calibrations of a model, with thresholds that keep a false-alarm rate."""
    with errors_for_people():
        if url:
            from app.commands.remote import Remote

            found = Remote(url, key).call("GET", f"/v1/models/{model}/calibrations").json()
        else:
            from app.calibration_views import listing
            from models.registry import Registry

            found = listing(Registry(settings().registry_dir), model).model_dump(mode="json")
    _show(found, as_json)


@models.command()
def calibrate(
    model: Ref,
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Images like those to be scored.")],
    activate: Annotated[bool, typer.Option("--activate/--keep", help="Use the new calibration from then on.")] = True,
    precision: Annotated[Arithmetic, typer.Option(help="Arithmetic of scores while it is in use.")] = "float32",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for the end, with a progress bar.")] = False,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Calibrate a model on other images, without training, as a job of a running service."""
    from app.commands.remote import Remote
    from worker.launcher import address

    remote = Remote(url or address(settings()), key)
    asked = {"dataset": dataset, "activate": activate, "precision": precision}
    job = remote.call("POST", f"/v1/models/{model}/calibrations", json=asked).json()
    if follow:
        job = _followed(remote, job["id"], as_json)
    if as_json and not follow:
        print_json(job)
    elif not as_json:
        typer.echo(outcome(job["result"]) if follow else f"{job['id']} is {job['status']}")


@models.command("use-calibration")
def use_calibration(
    model: Ref,
    number: Annotated[int, typer.Argument(min=0, help="0 is the one that the model came with.", show_default=False)],
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Use another calibration, an earlier one too; a running service goes over to it by itself."""
    with errors_for_people():
        if url:
            from app.commands.remote import Remote

            path = f"/v1/models/{model}/calibrations/active"
            found = Remote(url, key).call("PUT", path, json={"calibration": number}).json()
        else:
            from app.calibration_views import choose
            from models.registry import Registry

            found = choose(Registry(settings().registry_dir), model, number).model_dump(mode="json")
    _show(found, as_json)


def _followed(remote: Remote, job_id: str, as_json: bool) -> dict[str, Any]:
    from app.commands.follow import follow
    from app.commands.live import live_view

    with live_view(as_json) as observe:
        for event in follow(remote, job_id):
            observe(event)
    job: dict[str, Any] = remote.call("GET", f"/v1/jobs/{job_id}").json()
    if job["status"] != "succeeded":
        raise fail(f"job {job_id} {job['status']}{': ' + job['error']['detail'] if job['error'] else ''}", SERVICE)
    return job


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        print_calibrations(found)
