# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Commands ``snf models card``, ``audit``, ``export`` and ``import``, which read and move the files of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import completion
from app.cli.common import (
    ANOMALY,
    Json,
    Key,
    ServiceUrl,
    Url,
    client_schema,
    error_messages,
    print_response,
    read_settings,
    registry,
    require_folder,
)
from app.cli.model_tables import print_audit
from app.cli.progress import bytes_bar, images_bar, spinner
from app.cli.published import print_published, published_line
from app.cli.remote import service, service_url

if TYPE_CHECKING:
    from snf_client.schemas import Audit

NewName = Annotated[str, typer.Argument(help="Name of the model, which gets a new version.", show_default=False)]
Ref = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Model as NAME, NAME:VERSION or NAME@ALIAS.",
        show_default=False,
        autocompletion=completion.models,
    ),
]


def card(model: Ref, url: Url = None, key: Key = None) -> None:
    """Show the model card, a text about the purpose, training, measured quality and limits of a model."""
    if url:
        with service(url, key) as client:
            text = client.models.card(model)
    else:
        with error_messages():
            from models.limits.card import card_text
            from models.naming import parse_ref

            local = registry()
            text = card_text(local, *local.locate(parse_ref(model)))
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        typer.echo(text, nl=False)


def audit(
    model: Ref,
    n: Annotated[int, typer.Option("-n", min=1, max=16, help="Number of images.")] = 4,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Compare scores of a model's stored images with a float64 recomputation. Exit code 1: they do not agree."""
    if url:
        with service(url, key) as client, spinner(f"auditing {model}"):
            audited = client.models.audit(model, n=n)
    else:
        with error_messages():
            audited = _audit(model, n)
    if as_json:
        print_response(audited)
    else:
        print_audit(audited)
    if not audited.agrees:
        raise typer.Exit(ANOMALY)


def export(
    model: Ref,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Tar file. [default: NAME-VERSION.tar]")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Write the files of a model version into a tar file that `snf models import` can read."""
    target = out or Path(f"{model.replace(':', '-').replace('@', '-')}.tar")
    require_folder(target)
    if url:
        with service(url, key) as client, spinner(f"fetching {model}"):
            client.models.download(model, target)
    else:
        with error_messages():
            from models.artifacts.tar import pack

            pieces = pack(_folder(model))
            with target.open("wb") as file:
                file.writelines(pieces)
    typer.echo(f"{model} is in {target}")


def import_model(
    name: NewName,
    tar: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Tar file of `snf models export`.")],
    promote: Annotated[bool, typer.Option("--promote", help="Make the new version live, fit or not.")] = False,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Upload a tar file of `snf models export` to a service, which verifies and registers it as a new version."""
    with service(service_url(url), key) as client, bytes_bar("sending", "verifying the model") as update:
        registered = client.models.upload(name, tar, promote=promote, progress=update)
    if as_json:
        print_response(registered)
    else:
        # An unfit version is live only if that was asked.
        unfit = [reason.detail for reason in registered.unfit]
        line = published_line(f"{registered.name}:{registered.version}", live=promote, unfit=unfit)
        print_published(line, unfit=bool(unfit))


def _audit(model: str, n: int) -> Audit:
    from app.audits.views import audit_view
    from app.registry.model_pool import Loaded
    from models.audit import audit as run
    from models.audit import count_images
    from models.scorer import Scorer
    from snf_client.schemas import Audit

    version = registry().resolve(model)
    loaded = Loaded(version, Scorer.load(version.path, version.calibration_path, read_settings().engine_options))
    images, count = [], count_images(loaded.scorer, n)
    with images_bar("auditing", count) as advance:
        for index in range(count):
            images.append(run(loaded.scorer, index))
            advance(1)
    return client_schema(Audit, audit_view(loaded, images))


def _folder(model: str) -> Path:
    from models.naming import parse_ref
    from models.registry.calibrations import OWN

    local = registry()
    # A model has files even if its calibrations are damaged.
    return local.with_calibration(*local.locate(parse_ref(model)), OWN).path
