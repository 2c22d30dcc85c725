# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf datasets`: those of this machine or of a running service, and bringing new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.common import USAGE, Json, Key, Url, errors_for_people, fail, print_json, settings
from app.commands.dataset_tables import print_datasets, print_report
from app.image_files import TarStream, split_paths

if TYPE_CHECKING:
    from app.commands.remote import Remote
    from models.datasets import DatasetStore
    from worker.settings import Settings

datasets = typer.Typer(help="List, show, upload and delete datasets; alone it lists.", invoke_without_command=True)

Name = Annotated[str, typer.Argument(help="The dataset's name.", show_default=False)]
Told = Callable[[int, int], None]


@datasets.callback()
def alone(context: typer.Context, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List, show, upload and delete datasets; alone it lists."""
    if context.invoked_subcommand is None:
        list_datasets(url, key, as_json)


@datasets.command("list")
def list_datasets(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the datasets that can be trained on."""
    with errors_for_people():
        if url:
            found = _remote(url, key).call("GET", "/v1/datasets").json()["datasets"]
        else:
            from app.dataset_views import entries

            here = settings()
            found = [one.model_dump(mode="json") for one in entries(_store(here), here.data_dir)]
    if as_json:
        print_json({"datasets": found})
    else:
        print_datasets(found)


@datasets.command()
def show(name: Name, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show what is known of a dataset: counts, sizes, duplicates, rejected files."""
    with errors_for_people():
        found = _remote(url, key).call("GET", f"/v1/datasets/{name}").json() if url else _detail(name, settings())
    _print(found, as_json)


@datasets.command()
def upload(
    name: Name,
    paths: Annotated[
        list[Path],
        typer.Argument(help="Folders, image files, zip, tar, npz or npy files.", show_default=False),
    ],
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Make a dataset of files, here or in a running service, and show its report."""
    images, archives = split_paths(paths)
    with errors_for_people():
        if url:
            found = _send(_remote(url, key), name, images, archives, quiet=as_json)
        else:
            found = _create(settings(), name, images, archives, quiet=as_json)
    _print(found, as_json)


@datasets.command()
def delete(name: Name, url: Url = None, key: Key = None) -> None:
    """Delete an uploaded dataset; models that were trained on it stay."""
    with errors_for_people():
        if url:
            _remote(url, key).call("DELETE", f"/v1/datasets/{name}")
        else:
            _delete(settings(), name)
    typer.echo(f"deleted {name}")


def _create(here: Settings, name: str, images: dict[str, Path], archives: list[Path], *, quiet: bool) -> dict[str, Any]:
    from models.datasets import Source

    sources = [Source(path, given) for given, path in images.items()]
    sources += [Source(path, path.name) for path in archives]
    with _progress("reading", quiet) as told:
        _store(here).create(name, sources, progress=told)
    return _detail(name, here)


def _send(remote: Remote, name: str, images: dict[str, Path], archives: list[Path], *, quiet: bool) -> dict[str, Any]:
    import httpx

    # An upload of hours must not end in this answer.
    if remote.call("GET", f"/v1/datasets/{name}", accept=(404,)).is_success:
        raise fail(f"there is a dataset {name!r} already; choose another name or delete it first", USAGE)
    total = sum(path.stat().st_size for path in (*images.values(), *archives))
    with _progress("sending", quiet) as told, ExitStack() as files:
        count = _Count(told, total)
        form: list[tuple[str, tuple[str, Any]]] = []
        if images:
            form.append(("file", ("images.tar", _Counted(TarStream(images), count))))
        form += [("file", (path.name, _CountedFile(files.enter_context(path.open("rb")), count))) for path in archives]
        # Between the last byte and the answer the service looks at every image.
        wait = httpx.Timeout(120, read=None)
        answer = remote.call("POST", "/v1/datasets", data={"name": name}, files=form, timeout=wait)
    found: dict[str, Any] = answer.json()
    return found


class _Count:
    """Counts what several files have given."""

    def __init__(self, told: Told, total: int) -> None:
        self._told = told
        self._total = total
        self._done = 0

    def __call__(self, count: int) -> None:
        self._done += count
        self._told(min(self._done, self._total), self._total)


class _Counted:
    """Something to read from, counted."""

    def __init__(self, file: Any, count: _Count) -> None:
        self._file = file
        self._count = count

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`."""
        data: bytes = self._file.read(size)
        self._count(len(data))
        return data


class _CountedFile(_Counted):
    """A file, counted, which can tell its length."""

    def fileno(self) -> int:
        """The file's descriptor."""
        number: int = self._file.fileno()
        return number


@contextmanager
def _progress(what: str, quiet: bool) -> Iterator[Told]:
    """Gives a function that hears of bytes: done, total."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task(what, total=None)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=what if done < total else "looking at the images")

        yield told


def _delete(here: Settings, name: str) -> None:
    from app.dataset_views import refuse_builtin, refuse_used
    from worker.broker import redis_client
    from worker.problems import BrokerDown
    from worker.store import JobStore

    refuse_builtin(name)
    try:
        refuse_used(name, JobStore(redis_client(here), here.key_prefix))
    except BrokerDown:
        typer.echo("snf: the job store does not answer: a job that waits for this dataset will fail", err=True)
    _store(here).delete(name)


def _detail(name: str, here: Settings) -> dict[str, Any]:
    from app.dataset_views import detail

    return detail(name, _store(here), here.data_dir).model_dump(mode="json")


def _store(here: Settings) -> DatasetStore:
    from models.datasets import DatasetStore

    return DatasetStore(here.datasets_dir, quota=here.dataset_quota_bytes)


def _remote(url: str, key: str | None) -> Remote:
    from app.commands.remote import Remote

    return Remote(url, key)


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        print_report(found)
