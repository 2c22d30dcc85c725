"""Calls for datasets, with the upload of image files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from snf_client.local_files import ByteCounter, CountedFile, CountedStream, Progress, TarStream, size_of, split_paths
from snf_client.request import Call, RetryWhen, all_pages, path, read_bytes, read_json, read_nothing
from snf_client.schemas.datasets import DatasetDetail, DatasetList
from snf_client.transport import Resource, S, operation

Paths: TypeAlias = str | Path | Iterable[str | Path]


class DatasetsResource(Resource[S]):
    """API calls that list, show, create and delete datasets, which are named collections of images."""

    @operation
    def list(self) -> Call[DatasetList]:
        """Return all datasets with their image shapes and numbers of images.

        They are built-in, uploaded, or refer to images elsewhere.
        """
        return all_pages(path("datasets"), DatasetList, "datasets")

    @operation
    def get(self, name: str) -> Call[DatasetDetail]:
        """Return the details of one dataset by its name, such as the number of its images.

        They are its image counts and sizes, its split into training and other parts, and the report of its upload.
        """
        return Call("GET", path("datasets", name), read_json(DatasetDetail))

    @operation
    def contact_sheet(self, name: str) -> Call[bytes]:
        """Return the bytes of a PNG overview that shows up to 100 images of a dataset.

        Raises ``NotFound`` if the dataset is built in, and ``InvalidRequest`` if it refers to images that were not
        inspected.
        """
        return Call("GET", path("datasets", name, "contact-sheet"), read_bytes("image/png"))

    @operation
    def delete(self, name: str) -> Call[None]:
        """Delete a dataset from the service, with the images that were uploaded for it.

        Models that were trained on it stay, and so do images to which the dataset only refers.

        Raises:
            Conflict: If the dataset is built in or an unfinished job uses it.
        """
        return Call("DELETE", path("datasets", name), read_nothing)

    @operation
    def refer(
        self, name: str, location: str, *, column: str | None = None, inspect: bool = False
    ) -> Call[DatasetDetail]:
        """Create a dataset of images that stay at a storage location, such as an S3 bucket.

        Returns the details of the dataset, such as the number of images found.

        >>> from snf_client import Client
        >>> def refer(location: str) -> int:
        ...     with Client() as client:
        ...         return client.datasets.refer("lots", location).images

        Args:
            name: Name of the new dataset.
            location: URL of a folder of images, tar archives and Parquet files, or of one such file, such as
                ``s3://bucket/folder``, which the service must allow.
            column: Column of Parquet files with the images; None to find it by its type.
            inspect: Whether every image is read, as jobs of types other than ``score`` need.
        """
        request = {"name": name, "location": location, "inspect": inspect}
        return Call(
            "POST",
            path("datasets", "references"),
            read_json(DatasetDetail),
            body={"json": request | ({} if column is None else {"column": column})},
            retry_when=RetryWhen.UNSENT,
            read_timeout_s=None,
        )

    @operation
    def upload(
        self,
        name: str,
        paths: Paths,
        *,
        near_duplicates: Literal["keep", "drop"] = "keep",
        progress: Progress | None = None,
    ) -> Call[DatasetDetail]:
        """Upload folders, image files or archives as a new dataset.

        Returns the details of the dataset after all images were checked.

        The files are streamed. An upload that was cut off is not repeated.

        >>> from snf_client import Client
        >>> def upload(folder: str) -> int:
        ...     with Client() as client:
        ...         return client.datasets.upload("bottles", folder).images

        Args:
            name: Name of the new dataset.
            paths: One or more folders, image files, zip or tar archives, ``.npz`` or ``.npy`` files.
            near_duplicates: ``"drop"`` leaves out all but the first of images that are alike; the report lists each.
            progress: Function that is called with the bytes sent and the bytes in all. After the last byte the service
                checks every image before it answers.

        Raises:
            FilesProblem: If a path does not exist, no file was found, or a file became shorter while it was sent.
        """
        # An earlier service does not have the option.
        fields = {"name": name} | ({} if near_duplicates == "keep" else {"near_duplicates": near_duplicates})
        images, others = split_paths([Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)])
        return Call(
            "POST",
            path("datasets"),
            read_json(DatasetDetail),
            open_body=partial(_open_form, fields, images, others, progress),
            retry_when=RetryWhen.UNSENT,
            read_timeout_s=None,
        )


@contextmanager
def _open_form(
    fields: dict[str, str], images: dict[str, Path], others: list[Path], progress: Progress | None
) -> Iterator[Mapping[str, Any]]:
    """Open the files of an upload and provide its form: a tar archive of the images, then the other files."""
    counter = ByteCounter(progress, sum(file.stat().st_size for file in (*images.values(), *others)))
    with ExitStack() as files:
        form: list[tuple[str, tuple[str, CountedStream]]] = []
        if images:
            form.append(("file", ("images.tar", CountedStream(TarStream(images), counter))))
        for other in others:
            opened = files.enter_context(other.open("rb"))
            form.append(("file", (other.name, CountedFile(opened, counter, size_of(opened)))))
        # The name goes first, so that a name that is taken ends the upload at once.
        yield {"data": fields, "files": form}
