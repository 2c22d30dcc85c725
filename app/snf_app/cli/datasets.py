# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from snf_app.cli import completion
from snf_app.cli.common import (
    Json,
    Key,
    Url,
    client_schema,
    error_messages,
    fail,
    print_deleted,
    print_response,
    read_settings,
    refuse_before_subcommand,
)
from snf_app.cli.dataset_tables import print_datasets, print_report
from snf_app.cli.out_file import Force, check_new, write_out
from snf_app.cli.progress import bytes_bar
from snf_app.cli.remote import service
from snf_runtime.errors import USAGE

if TYPE_CHECKING:
    from snf_client.schemas.datasets import DatasetDetail
    from snf_models.datasets import DatasetStore
    from snf_models.datasets.report import NearDuplicates
    from snf_worker.settings import Settings

HELP = "List, show, upload, refer to and delete datasets. Without a subcommand: list."
datasets = typer.Typer(help=HELP, invoke_without_command=True)

Name = Annotated[
    str, typer.Argument(help="Name of the dataset.", show_default=False, autocompletion=completion.datasets)
]
NewName = Annotated[str, typer.Argument(help="Name of the dataset.", show_default=False)]


@datasets.callback(help=HELP)
def list_by_default(context: typer.Context, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Run ``snf datasets list`` if ``snf datasets`` is called without a subcommand."""
    if context.invoked_subcommand is None:
        list_datasets(url, key, as_json)
    else:
        refuse_before_subcommand(context)


@datasets.command("list")
def list_datasets(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the datasets for training or scoring: origin, image shape, number of images, split and size."""
    if url:
        with service(url, key) as client:
            listed = client.datasets.list()
    else:
        with error_messages():
            from snf_app.datasets.service import entries
            from snf_client.schemas.datasets import DatasetList
            from snf_client.schemas.datasets import DatasetList as ClientList

            settings = read_settings()
            listed = client_schema(ClientList, DatasetList(datasets=entries(_store(settings), settings.data_dir)))
    if as_json:
        print_response(listed)
    else:
        print_datasets(listed.datasets)


@datasets.command()
def show(name: Name, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show a dataset's number of images, their sizes, and their split for training, calibration and testing.

    Near duplicates are shown if the images were uploaded or inspected, and rejected files for all but built-in
    datasets.
    """
    if url:
        with service(url, key) as client:
            dataset = client.datasets.get(name)
    else:
        with error_messages():
            dataset = _detail(name, read_settings())
    _print(dataset, as_json)


@datasets.command()
def upload(
    name: NewName,
    paths: Annotated[
        list[Path],
        typer.Argument(help="Folders, image files, zip or tar archives, npz or npy files.", show_default=False),
    ],
    near_duplicates: Annotated[
        Literal["keep", "drop"],
        typer.Option(help="drop leaves out all but the first of images that are alike; the report lists each."),
    ] = "keep",
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Store images or archives as a new dataset, here or in a running service, and show its validation report."""
    from snf_client.images import FilesProblem

    try:
        if url:
            dataset = _upload(url, key, name, paths, near_duplicates)
        else:
            dataset = _create(read_settings(), name, paths, near_duplicates)
    except FilesProblem as error:
        raise fail(str(error), USAGE) from error
    _print(dataset, as_json)


@datasets.command()
def refer(
    name: NewName,
    location: Annotated[
        str,
        typer.Argument(
            help="Folder of images, tar archives (WebDataset) and Parquet files, or one such file: s3://bucket/folder, "
            "gs://, az://, file:///folder or, without --url, a path.",
            show_default=False,
        ),
    ],
    column: Annotated[
        str | None, typer.Option(help="Column of Parquet files with the images; by default found by its type.")
    ] = None,
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Read every image once, as jobs of other types than score need.")
    ] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Create a dataset of images at a path or URL, without copying them.

    The dataset is created here or in a running service, and its summary is shown.
    """
    if url:
        with service(url, key) as client:
            dataset = client.datasets.refer(name, location, column=column, inspect=inspect)
    else:
        dataset = _refer(read_settings(), name, location, column, inspect)
    _print(dataset, as_json)


@datasets.command()
def delete(name: Name, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Delete a dataset, but not the models that were trained on it.

    The images of a dataset by reference are kept, too.

    Exit code 2: an unfinished job uses it.
    """
    if url:
        with service(url, key) as client:
            client.datasets.delete(name)
    else:
        with error_messages():
            _delete(read_settings(), name)
    print_deleted(name, as_json=as_json)


@datasets.command("contact-sheet")
def contact_sheet(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG file.")] = Path("contact-sheet.png"),
    force: Force = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Write one PNG picture that shows up to 100 images of an uploaded dataset."""
    check_new(out, (".png",), force=force)
    if url:
        with service(url, key) as client:
            content = client.datasets.contact_sheet(name)
    else:
        with error_messages():
            content = _store(read_settings()).contact_sheet(name).read_bytes()
    write_out(out, content)
    typer.echo(f"the images are in {out}")


def _create(settings: Settings, name: str, paths: list[Path], near_duplicates: NearDuplicates) -> DatasetDetail:
    from snf_client.images import split_paths
    from snf_models.datasets import Source
    from snf_worker.sandbox.datasets import ingest

    images, archives = split_paths(paths)
    sources = [Source(path, image_name) for image_name, path in images.items()]
    sources += [Source(path, path.name) for path in archives]
    with error_messages():
        with bytes_bar("reading") as update:
            ingest(_store(settings), name, sources, settings, update, near_duplicates)
        return _detail(name, settings)


def _upload(url: str, key: str | None, name: str, paths: list[Path], near_duplicates: NearDuplicates) -> DatasetDetail:
    from snf_client import NotFound

    with service(url, key) as client:
        # Asked first, so that a long upload is not refused at its end.
        with suppress(NotFound):
            client.datasets.get(name)
            raise fail(f"the dataset {name!r} exists; choose another name or delete it first", USAGE)
        with bytes_bar("sending") as update:
            return client.datasets.upload(name, paths, near_duplicates=near_duplicates, progress=update)


def _refer(settings: Settings, name: str, location: str, column: str | None, inspect: bool) -> DatasetDetail:
    from snf_models.locations.location import Location
    from snf_worker.sandbox.datasets import LOCAL_SECONDS, refer

    with error_messages():
        place = Location.parse(location)
        with bytes_bar("reading") as update:
            seconds = LOCAL_SECONDS
            refer(_store(settings), name, place, settings, update, column=column, inspect=inspect, seconds=seconds)
        return _detail(name, settings)


def _delete(settings: Settings, name: str) -> None:
    from snf_app.datasets.endpoints import refuse_builtin, refuse_used
    from snf_models.disk import locked
    from snf_worker.broker.connection import redis_client
    from snf_worker.errors import BrokerDown
    from snf_worker.jobs.store import JobStore

    refuse_builtin(name)
    with locked(settings.jobs_dir):
        try:
            refuse_used(name, JobStore(redis_client(settings), settings.key_prefix))
        except BrokerDown:
            typer.echo("snf: the job store does not answer; a queued job that uses this dataset will fail", err=True)
        _store(settings).delete(name)


def _detail(name: str, settings: Settings) -> DatasetDetail:
    from snf_app.datasets.service import detail
    from snf_client.schemas.datasets import DatasetDetail

    return client_schema(DatasetDetail, detail(name, _store(settings), settings.data_dir))


def _store(settings: Settings) -> DatasetStore:
    from snf_models.datasets import DatasetStore

    return DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)


def _print(dataset: DatasetDetail, as_json: bool) -> None:
    if as_json:
        print_response(dataset)
    else:
        print_report(dataset)
