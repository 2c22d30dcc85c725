# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf datasets`: those of this machine or of a running service, and bringing new ones."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import completion
from app.cli.common import USAGE, Json, Key, Url, errors_for_people, fail, print_answer, say_deleted, settings
from app.cli.dataset_tables import print_datasets, print_report
from app.cli.progress import bytes_bar
from app.cli.remote import service

if TYPE_CHECKING:
    from app.datasets.schemas import DatasetDetail
    from models.datasets import DatasetStore
    from worker.settings import Settings

datasets = typer.Typer(help="List, show, upload and delete datasets; alone it lists.", invoke_without_command=True)

Name = Annotated[
    str, typer.Argument(help="The dataset's name.", show_default=False, autocompletion=completion.datasets)
]
NewName = Annotated[str, typer.Argument(help="The dataset's name.", show_default=False)]


@datasets.callback()
def alone(context: typer.Context, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List, show, upload and delete datasets; alone it lists."""
    if context.invoked_subcommand is None:
        list_datasets(url, key, as_json)


@datasets.command("list")
def list_datasets(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the datasets that can be trained on."""
    if url:
        with service(url, key) as client:
            found = client.datasets.list()
    else:
        with errors_for_people():
            from app.datasets.schemas import DatasetList
            from app.datasets.views import entries

            here = settings()
            found = DatasetList(datasets=entries(_store(here), here.data_dir))
    if as_json:
        print_answer(found)
    else:
        print_datasets(found.datasets)


@datasets.command()
def show(name: Name, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show what is known of a dataset: counts, sizes, duplicates, rejected files."""
    if url:
        with service(url, key) as client:
            found = client.datasets.get(name)
    else:
        with errors_for_people():
            found = _detail(name, settings())
    _print(found, as_json)


@datasets.command()
def upload(
    name: NewName,
    paths: Annotated[
        list[Path],
        typer.Argument(help="Folders, image files, zip, tar, npz or npy files.", show_default=False),
    ],
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Make a dataset of files, here or in a running service, and show its report."""
    from snf_client.image_files import FilesProblem

    try:
        found = _send(url, key, name, paths) if url else _create(settings(), name, paths)
    except FilesProblem as error:
        raise fail(str(error), USAGE) from error
    _print(found, as_json)


@datasets.command()
def delete(name: Name, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Delete an uploaded dataset; models that were trained on it stay."""
    if url:
        with service(url, key) as client:
            client.datasets.delete(name)
    else:
        with errors_for_people():
            _delete(settings(), name)
    say_deleted(name, as_json=as_json)


@datasets.command("contact-sheet")
def contact_sheet(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG file.")] = Path("contact-sheet.png"),
    url: Url = None,
    key: Key = None,
) -> None:
    """Write a picture with up to 100 images of an uploaded dataset."""
    if url:
        with service(url, key) as client:
            content = client.datasets.contact_sheet(name)
    else:
        with errors_for_people():
            content = _store(settings()).contact_sheet(name).read_bytes()
    out.write_bytes(content)
    typer.echo(f"the images are in {out}")


def _create(here: Settings, name: str, paths: list[Path]) -> DatasetDetail:
    from models.datasets import Source
    from snf_client.image_files import split_paths
    from worker.sandbox.ingest import ingest

    images, archives = split_paths(paths)
    sources = [Source(path, given) for given, path in images.items()]
    sources += [Source(path, path.name) for path in archives]
    with errors_for_people():
        with bytes_bar("reading") as told:
            ingest(_store(here), name, sources, here, told)
        return _detail(name, here)


def _send(url: str, key: str | None, name: str, paths: list[Path]) -> DatasetDetail:
    from snf_client import NotFound

    with service(url, key) as client:
        # An upload of hours must not end in this answer.
        with suppress(NotFound):
            client.datasets.get(name)
            raise fail(f"there is a dataset {name!r} already; choose another name or delete it first", USAGE)
        with bytes_bar("sending") as told:
            return client.datasets.upload(name, paths, progress=told)


def _delete(here: Settings, name: str) -> None:
    from app.datasets.views import refuse_builtin, refuse_used
    from worker.broker.connection import redis_client
    from worker.errors import BrokerDown
    from worker.jobs.store import JobStore

    refuse_builtin(name)
    try:
        refuse_used(name, JobStore(redis_client(here), here.key_prefix))
    except BrokerDown:
        typer.echo("snf: the job store does not answer: a job that waits for this dataset will fail", err=True)
    _store(here).delete(name)


def _detail(name: str, here: Settings) -> DatasetDetail:
    from app.datasets.views import detail

    return detail(name, _store(here), here.data_dir)


def _store(here: Settings) -> DatasetStore:
    from models.datasets import DatasetStore

    return DatasetStore(here.datasets_dir, quota=here.dataset_quota_bytes)


def _print(found: DatasetDetail, as_json: bool) -> None:
    if as_json:
        print_answer(found)
    else:
        print_report(found)
