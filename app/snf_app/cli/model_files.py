"""Commands that write and read whole models, and the one that draws samples."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from snf_app.cli import completion
from snf_app.cli.common import (
    DEFAULT_MODEL,
    ListingGroup,
    Model,
    Promote,
    Ref,
    error_messages,
    fail,
    read_settings,
    require_local,
)
from snf_app.cli.job_tables import print_outcome
from snf_app.cli.output import ADVICE, Force, bytes_bar, check_new, spinner, write_out
from snf_app.cli.service import Session, command
from snf_client import Client, UnexpectedAnswer
from snf_client.schemas.base import NAME_RULE
from snf_models.artifacts.files import cached_artifact, fetch_artifact, files_at, pack, unpack, write_artifact
from snf_models.locations.location import Location
from snf_models.naming import is_name
from snf_runtime.errors import USAGE
from snf_worker.process_setup import user_umask
from snf_worker.sandbox.uploads import verify_upload

FORMATS: dict[str, Literal["png", "npy", "zip"]] = {".png": "png", ".npy": "npy", ".zip": "zip"}

commands = typer.Typer(rich_markup_mode="markdown")
models = typer.Typer(cls=ListingGroup)  # commands of ``snf models``


def is_url(text: str) -> bool:
    """Return whether a text is a URL rather than a path or a model name.

    >>> is_url("s3://bucket/models/parts"), is_url("parts.tar"), is_url("parts:3")
    (True, False, False)
    """
    return "://" in text


@command(models, as_json=False)
def export(
    session: Session,
    model: Ref,
    file: Annotated[
        str | None,
        typer.Argument(
            help="Tar file, or URL of a folder for the single files, such as s3://bucket/models/parts. "
            "Default: NAME-VERSION.tar.",
            autocompletion=completion.files,
        ),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="The same as FILE.")] = None,
    force: Force = False,
) -> None:
    """Write a model version to a tar file or a storage URL, for `snf models import`.

    It has the calibration that the version was published with, no later one and no alias.
    """
    if file is not None and out is not None:
        raise fail(f"expected one file, got {file} and --out {out}", USAGE)
    found = session.client.models.get(model)
    if not is_name(found.name):  # it becomes the name of a file
        raise UnexpectedAnswer(f"the service named the model {found.name!a}: expected {NAME_RULE}")
    ref = f"{found.name}:{found.version}"
    target = file or out or f"{found.name}-{found.version}.tar"
    if is_url(target):
        _write_to_location(session.client, ref, target, force=force)
    else:
        check_new(Path(target), (".tar",), force=force)
        with spinner(f"fetching {model}"), user_umask():
            session.client.models.download(ref, Path(target))
    typer.echo(f"{ref} is in {target}")
    if active := found.calibration.number:
        note = f"its calibration {active} is not in the file; an import has calibration 0, which it was published with"
        typer.echo(f"note: {note}", err=True)


@command(models, "import")
def import_model(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the model, which gets a new version.")],
    file: Annotated[
        str,
        typer.Argument(help="Tar file of `snf models export`, or URL of its folder.", autocompletion=completion.files),
    ],
    promote: Promote = False,
) -> None:
    """Verify the files of an exported model, and register them as a new version of a model.

    The files are those of `snf models export`. The model may have another name than the exported one.
    """
    if not is_url(file) and not Path(file).is_file():
        raise fail(f"expected a tar file, or a URL such as s3://bucket/folder, got {file}: it is no file", USAGE)
    client = session.client
    with _tar_of(file) as tar, bytes_bar("sending", "verifying the model") as update:
        registered = client.models.upload(name, tar, promote=promote, progress=update)
    [live] = (model.aliases.get("live") for model in client.models.list().models if model.name == name)

    result = registered.model_dump(include={"unfit"}) | {"ref": f"{name}:{registered.version}", "live_version": live}
    session.print(registered, lambda _: print_outcome(result, session.option))


@command(commands)
def sample(
    session: Session,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File: a grid (.png), an array (.npy) or single PNG files (.zip).")
    ] = Path("samples.png"),
    model: Model = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("-n", min=1, max=256, help="Number of images.")] = 16,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="Spread of the latents.")] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same images. Default: random.")] = None,
    learned: Annotated[bool, typer.Option("--learned", help="Use the learned inverses.")] = False,
    force: Force = False,
) -> None:
    """Draw random images from a model into a file: a PNG grid, a NumPy array or a zip of single PNG files."""
    check_new(out, tuple(FORMATS), force=force)
    inverse: Literal["learned", "exact"] = "learned" if learned else "exact"
    with spinner(f"drawing {n} images"):
        file = session.client.samples.file(
            model, n, format=FORMATS[out.suffix], temperature=temperature, seed=seed, inverse=inverse
        )
    write_out(out, file.content)
    drawn = {"file": str(out), "model": model, "n": n, "temperature": temperature, "seed": file.seed}
    session.print(drawn, lambda _: typer.echo(f"{n} samples of {model} with seed {file.seed} in {out}"))


@commands.command("export")
def export_graphs(
    model: Ref,
    folder: Annotated[Path, typer.Argument(help="Folder to write, which the runner reads.")],
    form: Annotated[
        Literal["openvino", "onnx"], typer.Option("--format", help="Format of the graphs; the runner reads both.")
    ] = "openvino",
    force: Annotated[
        bool, typer.Option("--force", help="Write over a folder that an export wrote; over no other one.")
    ] = False,
) -> None:
    """Export a model with its calibration in use to a folder, for scoring on machines without PyTorch.

    The runner of the package snf-density-runtime gives the same scores and verdicts. It has no samples and no
    pictures of heat maps.
    """
    require_local("snf export", "its process makes the graphs")
    from snf_app.cli.local_work import export_here  # noqa: PLC0415 - PyTorch takes seconds

    with error_messages():
        export_here(model, folder, form, force=force)


def open_at_location(url: str) -> Path:
    """Return the folder of a model in this machine's cache, fetched and verified if it is new."""
    settings = read_settings(writes=True)

    def check(folder: Path) -> None:
        with spinner("verifying the model"):
            verify_upload(folder, settings.backbones_dir, lambda _done, _all: None)

    return cached_artifact(Location(url), settings.home / "cache" / "models", settings.max_model_bytes, check)


def _write_to_location(client: Client, ref: str, url: str, *, force: bool) -> None:
    """Write a version to a URL; exit with code 2 if a model is there, unless ``force`` is set."""
    with tempfile.TemporaryDirectory(prefix="snf-export-") as scratch:
        location = Location(url)
        if taken := [] if force else files_at(location):
            raise fail(f"{location} holds {', '.join(taken)} already; {ADVICE}", USAGE)
        with spinner(f"writing {ref}"):
            tar, folder = Path(scratch, "model.tar"), Path(scratch, "model")
            client.models.download(ref, tar)
            folder.mkdir()
            unpack([tar.read_bytes()], folder)
            write_artifact(folder, location)


@contextmanager
def _tar_of(file: str) -> Iterator[Path]:
    """Yield the path of a tar file; a model at a URL is packed into a temporary one."""
    if not is_url(file):
        yield Path(file)
        return
    with tempfile.TemporaryDirectory(prefix="snf-import-") as scratch:
        folder, tar = Path(scratch, "model"), Path(scratch, "model.tar")
        folder.mkdir()
        fetch_artifact(Location(file), folder, read_settings().max_model_bytes)
        with tar.open("wb") as target:
            target.writelines(pack(folder))
        yield tar
