"""Calls about datasets, and the form that brings a new one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

from app.datasets.schemas import DatasetDetail, DatasetList
from snf_client.image_files import TarStream, split_paths
from snf_client.request import Call, Repeat, content, model, nothing, path
from snf_client.transport import AsyncSender, Group, S, SyncSender, operation
from snf_client.upload_progress import Count, Counted, CountedFile, Progress

Paths: TypeAlias = str | Path | Iterable[str | Path]


class _Datasets(Group[S]):
    """Datasets of the service."""

    @operation
    def list(self) -> Call[DatasetList]:
        """The built-in and the uploaded datasets."""
        return Call("GET", path("datasets"), model(DatasetList))

    @operation
    def get(self, name: str) -> Call[DatasetDetail]:
        """Counts, sizes and the split of a dataset, with the report of an uploaded one."""
        return Call("GET", path("datasets", name), model(DatasetDetail))

    @operation
    def contact_sheet(self, name: str) -> Call[bytes]:
        """A PNG with up to 100 images of an uploaded dataset."""
        return Call("GET", path("datasets", name, "contact-sheet"), content)

    @operation
    def delete(self, name: str) -> Call[None]:
        """Deletes an uploaded dataset; raises `Conflict` while a job that is not over uses it."""
        return Call("DELETE", path("datasets", name), nothing)


class Datasets(_Datasets[SyncSender]):
    """Datasets of the service."""

    def upload(self, name: str, paths: Paths, *, progress: Progress | None = None) -> DatasetDetail:
        """Makes a dataset of folders, image files, zip, tar, `.npz` or `.npy` files; answers its report.

        Files are streamed, and sent once: an upload that was cut off is not repeated. `progress` hears of bytes, and of
        the last before the service looks at all images. Raises `FilesProblem` where there is nothing to send.

        >>> from snf_client import Client
        >>> def bring(folder: str) -> int:
        ...     with Client() as client:
        ...         return client.datasets.upload("bottles", folder).images
        """
        with _upload(name, paths, progress) as call:
            return self._sender.send(call)


class AsyncDatasets(_Datasets[AsyncSender]):
    """Datasets of the service."""

    async def upload(self, name: str, paths: Paths, *, progress: Progress | None = None) -> DatasetDetail:
        """Makes a dataset of files; see `Datasets.upload`."""
        with _upload(name, paths, progress) as call:
            return await self._sender.send(call)


@contextmanager
def _upload(name: str, paths: Paths, progress: Progress | None) -> Iterator[Call[DatasetDetail]]:
    images, others = split_paths([Path(one) for one in _several(paths)])
    count = Count(progress, sum(file.stat().st_size for file in (*images.values(), *others)))
    with ExitStack() as files:
        form: list[tuple[str, tuple[str, Counted]]] = []
        if images:
            form.append(("file", ("images.tar", Counted(TarStream(images), count))))
        for other in others:
            form.append(("file", (other.name, CountedFile(files.enter_context(other.open("rb")), count))))
        # The name goes first: one that is taken ends the upload. Between the last byte and the answer the service looks
        # at every image.
        body = {"data": {"name": name}, "files": form}
        yield Call("POST", path("datasets"), model(DatasetDetail), body=body, repeat=Repeat.UNSENT, read_s=None)


def _several(paths: Paths) -> Sequence[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)
