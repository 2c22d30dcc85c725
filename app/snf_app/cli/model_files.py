# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snf_app.cli import completion
from snf_app.cli.common import (
    Json,
    Key,
    Url,
    client_schema,
    error_messages,
    fail,
    print_response,
    read_settings,
    registry,
    url_option,
)
from snf_app.cli.model_locations import is_url, tar_of, write_to_location
from snf_app.cli.model_tables import print_audit
from snf_app.cli.new_version import print_published, published_line
from snf_app.cli.out_file import Force, check_new
from snf_app.cli.progress import bytes_bar, images_bar, spinner
from snf_app.cli.remarks import print_notes
from snf_app.cli.remote import service
from snf_runtime.errors import ANOMALY, USAGE
from snf_worker.process_setup import user_umask

if TYPE_CHECKING:
    from snf_client import Client
    from snf_client.schemas.models import Audit, ModelDetail

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
            from snf_models.limits.card import card_text
            from snf_models.naming import parse_ref

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
    """Check a model's scores by recomputing the log-likelihoods of some images in float64.

    The images are stored with the model. If they are too few, samples are added, where the model can generate them.

    Exit code 1: the scores do not agree.
    """
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
    file: Annotated[
        str | None,
        typer.Argument(
            help="Tar file, or URL of a folder for the single files, such as s3://bucket/models/parts. "
            "Default: NAME-VERSION.tar.",
            show_default=False,
            autocompletion=completion.files,
        ),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="The same as FILE.", show_default=False)] = None,
    force: Force = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Write a model version to a tar file or a storage URL, for `snf models import`.

    It has the calibration that the version was published with, no later one and no alias.
    """
    if file is not None and out is not None:
        raise fail(f"expected one file, got {file} and --out {out}", USAGE)
    with service(url, key) if url else nullcontext() as client, error_messages():
        name, version, active = _located(model, client)
        ref = f"{name}:{version}"
        target = file or out or f"{name}-{version}.tar"
        if is_url(target):
            write_to_location(ref, None if client is not None else _folder(ref), target, client, force=force)
        else:
            check_new(Path(target), (".tar",), force=force)
            if client is not None:
                with spinner(f"fetching {model}"), user_umask():
                    client.models.download(ref, Path(target))
            else:
                _pack(ref, Path(target))
    typer.echo(f"{name}:{version} is in {target}")
    if active:
        note = f"its calibration {active} is not in the file; an import has calibration 0, which it was published with"
        print_notes([note], to_stderr=True)


def import_model(
    name: NewName,
    file: Annotated[
        str,
        typer.Argument(
            help="Tar file of `snf models export`, or URL of its folder.",
            show_default=False,
            autocompletion=completion.files,
        ),
    ],
    promote: Annotated[bool, typer.Option("--promote", help="Make the new version live, fit or not.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Verify the files of an exported model, and register them as a new version of a model.

    The files are those of `snf models export`. The model may have another name than the exported one.
    """
    if not is_url(file) and not Path(file).is_file():
        raise fail(f"expected a tar file, or a URL such as s3://bucket/folder, got {file}: it is no file", USAGE)
    if url:
        with service(url, key) as client, tar_of(file) as tar, bytes_bar("sending", "verifying the model") as update:
            registered = client.models.upload(name, tar, promote=promote, progress=update)
            [live] = (model.aliases.get("live") for model in client.models.list().models if model.name == name)
    else:
        with error_messages():
            registered = _import(name, file, promote)
            live = registry().live_version(name)
    if as_json:
        print_response(registered)
    else:
        unfit = [reason.detail for reason in registered.unfit]
        line = published_line(
            f"{registered.name}:{registered.version}", live=live, unfit=unfit, options=url_option(url)
        )
        print_published(line, unfit=bool(unfit))


def _located(model: str, client: Client | None) -> tuple[str, int, int]:
    """Return the name and the version of a model, and the number of its active calibration."""
    from snf_client import UnexpectedAnswer
    from snf_client.schemas.base import NAME_RULE
    from snf_models.naming import is_name, parse_ref

    if client is not None:
        detail = client.models.get(model)
        if not is_name(detail.name):  # it becomes the name of a file
            raise UnexpectedAnswer(f"the service named the model {detail.name!a}: expected {NAME_RULE}")
        return detail.name, detail.version, detail.calibration.number
    local = registry()
    name, version = local.locate(parse_ref(model))
    return name, version, local.calibrations(name, version).active()


def _pack(model: str, target: Path) -> None:
    from snf_models.artifacts.files import pack
    from snf_models.disk import new_file

    pieces = pack(_folder(model))
    with user_umask(), new_file(target.absolute()) as file:
        file.writelines(pieces)


def _import(name: str, file: str, promote: bool) -> ModelDetail:
    """Register a tar file, or a folder at a location, in this machine's registry; it is checked as an upload is."""
    from snf_app.calibrations.service import view_of
    from snf_app.registry.service import detail, register_artifact
    from snf_client.schemas.models import ModelDetail
    from snf_models.archives import PIECE_BYTES
    from snf_models.artifacts.files import fetch_artifact, unpack
    from snf_models.locations.location import Location
    from snf_models.naming import check_name

    check_name(name)
    settings, local = read_settings(), registry()
    with tempfile.TemporaryDirectory(prefix="snf-import-") as folder, spinner("verifying the model"):
        # Error texts show the last parts of a file's path, so they begin with the name.
        artifact = Path(folder, name, "upload")
        artifact.mkdir(parents=True)
        if is_url(file):
            fetch_artifact(Location(file), artifact, settings.max_model_bytes)
        else:
            with Path(file).open("rb") as tar:
                unpack(iter(lambda: tar.read(PIECE_BYTES), b""), artifact)
        version = register_artifact(artifact, name, local, settings.backbones_dir, lambda _done, _all: None, promote)
    calibration = view_of(local, version.name, version.version, version.calibration)
    return client_schema(ModelDetail, detail(version, calibration, None))


def _audit(model: str, n: int) -> Audit:
    from snf_app.audits.endpoints import audit_view
    from snf_app.registry.model_pool import ServedModel
    from snf_client.schemas.models import Audit
    from snf_models.audit import audit as run
    from snf_models.audit import count_images
    from snf_models.scorer import load_model

    version = registry().resolve(model)
    loaded = ServedModel(version, load_model(version.path, version.calibration_path, read_settings().engine_options))
    images, count = [], count_images(loaded.scorer, n)
    with images_bar("auditing", count) as advance:
        for index in range(count):
            images.append(run(loaded.scorer, index))
            advance(1)
    return client_schema(Audit, audit_view(loaded, images))


def _folder(model: str) -> Path:
    from snf_models.naming import parse_ref
    from snf_models.registry.calibrations import OWN

    local = registry()
    # A model has files even if its calibrations are damaged.
    return local.with_calibration(*local.locate(parse_ref(model)), OWN).path
