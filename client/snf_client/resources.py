"""Calls about models, calibrations, limits, datasets, runs and samples."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, Unpack

import httpx
import numpy as np

from snf_client.errors import UnexpectedAnswer
from snf_client.images import FileStream, Pixels, Progress, UploadStream, byte_counter, size_of, split_paths, tar_pieces
from snf_client.schemas.calibrations import CalibrationComparison, CalibrationList, CalibrationView
from snf_client.schemas.datasets import DatasetDetail, DatasetList
from snf_client.schemas.jobs import JobView
from snf_client.schemas.limits import LimitList, LimitView
from snf_client.schemas.models import Aliases, Audit, DriftReport, ModelDetail, ModelPage
from snf_client.schemas.scores import Reference, Samples
from snf_client.schemas.training import RunDetail, RunList
from snf_client.transport import (
    Call,
    Resource,
    RetryWhen,
    S,
    T,
    all_pages,
    operation,
    path,
    query,
    read_bytes,
    read_json,
    read_nothing,
    read_text,
)


class CalibrationsResource(Resource[S]):
    """API calls that list, show, compare, activate and create the p-value calibrations of a model.

    A calibration has the scores of normal images, from which p-values are computed.

    ``ref`` is a model as ``name``, ``name:3`` or ``name@champion``.
    """

    @operation
    def list(self, ref: str) -> Call[CalibrationList]:
        """Return all p-value calibrations of a model version, and the number of the one in use."""
        return Call("GET", path("models", ref, "calibrations"), read_json(CalibrationList))

    @operation
    def get(self, ref: str, number: int | None = None) -> Call[CalibrationView]:
        """Return the calibration ``number`` of a model version, or the active calibration if ``number`` is None.

        Calibration 0 came with the model.
        """
        chosen = "active" if number is None else number
        return Call("GET", path("models", ref, "calibrations", chosen), read_json(CalibrationView))

    @operation
    def choose(self, ref: str, number: int) -> Call[CalibrationList]:
        """Activate the p-value calibration ``number`` of a model version; return the list of all calibrations.

        Scoring uses it within about two seconds.
        """
        body = {"json": {"calibration": number}}
        return Call("PUT", path("models", ref, "calibrations", "active"), read_json(CalibrationList), body=body)

    @operation
    def compare(self, ref: str, number: int, *, against: int | None = None) -> Call[CalibrationComparison]:
        """Return how the threshold and verdicts of a model would change if another calibration became active.

        It compares the smallest alpha, the threshold, and the verdicts on the newest images.

        Args:
            ref: The model version.
            number: The calibration.
            against: The calibration to compare with; None for the one in use.
        """
        address = path("models", ref, "calibrations", number, "comparison")
        return Call("GET", address, read_json(CalibrationComparison), params=query(against=against))

    @operation
    def create(
        self,
        ref: str,
        dataset: str,
        *,
        activate: bool | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
        key: str | None = None,
    ) -> Call[JobView]:
        """Submit a background job that calibrates a model's p-values on a dataset of normal images.

        Returns the record of the job.

        Args:
            ref: The model version.
            dataset: Images like those to be scored, without anomalies.
            activate: Whether the new calibration becomes active; None: unless it is coarser than the one in use.
            precision: Arithmetic of scores while the calibration is active.
            key: Idempotency key, see ``JobsResource``.
        """
        return Call(
            "POST",
            path("models", ref, "calibrations"),
            read_json(JobView),
            headers={"Idempotency-Key": key or uuid.uuid4().hex},
            body={"json": {"dataset": dataset, "activate": activate, "precision": precision}},
        )


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
    count = byte_counter(progress, sum(file.stat().st_size for file in (*images.values(), *others)))
    with ExitStack() as files:
        form: list[tuple[str, tuple[str, UploadStream]]] = []
        if images:
            form.append(("file", ("images.tar", UploadStream(tar_pieces(images), count))))
        for other in others:
            opened = files.enter_context(other.open("rb"))
            form.append(("file", (other.name, FileStream(opened, size_of(opened), count))))
        # The name goes first, so that a name that is taken ends the upload at once.
        yield {"data": fields, "files": form}


class LimitsResource(Resource[S]):
    """API calls about the detection limits of a model: the smallest defects that it reliably finds.

    To measure a limit, queue a job with ``client.jobs.limit``.

    ``ref`` is a model as ``name``, ``name:3`` or ``name@champion``.
    """

    @operation
    def list(self, ref: str) -> Call[LimitList]:
        """Return all measured detection limits (smallest defects found) of a model version, newest first.

        The result also has the number of the active calibration.
        """
        return Call("GET", path("models", ref, "limits"), read_json(LimitList))

    @operation
    def get(self, ref: str, number: int) -> Call[LimitView]:
        """Return a measured detection limit, the smallest defects that a model version finds, by its number.

        Numbers start at 1.
        """
        return Call("GET", path("models", ref, "limits", number), read_json(LimitView))

    @operation
    def chart(self, ref: str, number: int) -> Call[str]:
        """Return an SVG chart, as text, of the share of defects that a model finds at each defect size."""
        return Call("GET", path("models", ref, "limits", number, "chart"), read_text("image/svg+xml"))


class ModelsResource(Resource[S]):
    """Calls about models: list, show, upload, download and delete them, and set aliases.

    ``ref`` is a model as ``name``, ``name:3`` or ``name@champion``.
    """

    @operation
    def list(self) -> Call[ModelPage]:
        """Return all models of the service, each with its versions, aliases and loading state."""
        return all_pages(path("models"), ModelPage, "models")

    @operation
    def get(self, ref: str) -> Call[ModelDetail]:
        """Return the details of a model version, such as its active calibration and whether it is loaded.

        Once the version is loaded, the result also says how it computes scores.
        """
        return Call("GET", path("models", ref), read_json(ModelDetail))

    @operation
    def reference(self, ref: str, *, bins: int | None = None) -> Call[Reference]:
        """Return a histogram of a model's anomaly statistic over the model's calibration images.

        The statistic is in nats; larger is more anomalous.
        """
        return Call("GET", path("models", ref, "reference"), read_json(Reference), params=query(bins=bins))

    @operation
    def audit(self, ref: str, *, n: int | None = None) -> Call[Audit]:
        """Audit a model: score ``n`` images as usual and in float64, and return both log-likelihoods of each.

        By default ``n`` is 4. The images are stored with the model or drawn from it.
        """
        return Call("GET", path("models", ref, "audit"), read_json(Audit), params=query(n=n))

    @operation
    def card(self, ref: str) -> Call[str]:
        """Return the model card (purpose, quality, training and limits of a model version) as Markdown text."""
        return Call("GET", path("models", ref, "card"), read_text("text/markdown"))

    @operation
    def card_html(self, ref: str) -> Call[str]:
        """Return the model card (purpose, quality, training, limits) as an HTML fragment without its images."""
        return Call("GET", path("models", ref, "card"), read_text("text/html"), params={"format": "html"})

    @operation
    def card_samples(self, ref: str) -> Call[bytes]:
        """Return the sample images of a model card as the bytes of one PNG file.

        It is a grid of images that were drawn from the model version.
        """
        return Call("GET", path("models", ref, "card", "samples"), read_bytes("image/png"))

    @operation
    def drift(self, ref: str) -> Call[DriftReport]:
        """Return drift test results: whether images scored with a model differ from its calibration images.

        Only images that were scored with a ``source`` count. The first result is for all sources together.
        """
        return Call("GET", path("models", ref, "drift"), read_json(DriftReport))

    @operation
    def acknowledge_drift(self, ref: str, source: str | None = None) -> Call[None]:
        """Acknowledge a drift alarm of a model, which ends the alarm and restarts the drift test.

        The alarm is that of a source of images, or of all sources together for None. The test starts anew at the next
        image.

        Raises:
            NotFound: If no image of the source was scored since the last acknowledgement.
        """
        place = path("models", ref, "drift", *([] if source is None else [source]))
        return Call("DELETE", place, read_nothing, retry_when=RetryWhen.REFUSED)

    @operation
    def set_alias(self, name: str, alias: str, version: int) -> Call[Aliases]:
        """Point an alias at a model version, and return all aliases of the model.

        The alias, such as ``champion``, is created if it is new.

        ``live`` can point at an unfit version; ``unfit`` of the returned object then has the reasons.
        """
        body = {"json": {"version": version}}
        return Call("PUT", path("models", name, "aliases", alias), read_json(Aliases), body=body)

    @operation
    def delete_alias(self, name: str, alias: str) -> Call[None]:
        """Delete an alias of a model, such as ``champion``; the version that it names stays.

        Raises:
            Conflict: If the alias is ``live`` of a fit version, or no version is live.
        """
        return Call("DELETE", path("models", name, "aliases", alias), read_nothing)

    @operation
    def delete_version(self, name: str, version: int) -> Call[None]:
        """Delete a version of a model with its calibrations; its number is never used again.

        Raises:
            Conflict: If an alias points at the version, an unfinished job uses it, or it ships with the product.
        """
        return Call("DELETE", path("models", name, "versions", version), read_nothing)

    @operation
    def delete(self, name: str) -> Call[None]:
        """Delete a model with all its versions, their calibrations and its aliases.

        Raises:
            Conflict: If an unfinished job uses the model, or the model ships with the product.
        """
        return Call("DELETE", path("models", name), read_nothing)

    @operation
    def download(self, ref: str, target: str | Path) -> Call[Path]:
        """Download a model version as a tar file to ``target``, replacing any file there; return that path."""
        target = Path(target)
        return Call("GET", path("models", ref, "artifact"), lambda _response: target, save_to=target)

    @operation
    def upload(
        self, name: str, tar: str | Path, *, promote: bool = False, progress: Progress | None = None
    ) -> Call[ModelDetail]:
        """Upload a tar file as the next version of the model ``name``; return its details once it is verified.

        The service verifies the model first. The file is streamed. An upload that was cut off is not repeated.

        Args:
            name: Name of the model.
            tar: File that ``download`` or ``snf models export`` wrote.
            promote: Point the alias ``live`` at the new version, fit or not.
            progress: Function that is called with the bytes sent and the bytes in all.

        Raises:
            FilesProblem: If the file became shorter while it was sent.
        """
        size = Path(tar).stat().st_size
        return Call(
            "POST",
            path("models"),
            read_json(ModelDetail),
            params=query(name=name, promote=promote),
            headers={"Content-Type": "application/x-tar", "Content-Length": str(size)},
            open_body=partial(_open_tar, Path(tar), size, progress),
            retry_when=RetryWhen.UNSENT,
            read_timeout_s=None,
        )


@contextmanager
def _open_tar(path: Path, size: int, progress: Progress | None) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as file:
        yield {"content": iter(FileStream(file, size, byte_counter(progress, size)))}


class RunsResource(Resource[S]):
    """API calls that list, show and delete the records of training runs.

    They are the runs of jobs and those of ``snf train`` on the machine of the service.

    A record stays when its job is deleted.
    """

    @operation
    def list(self, *, after: str | None = None, limit: int = 50) -> Call[RunList]:
        """Return one page of the records of training runs, newest first, with a cursor for the next page.

        Args:
            after: ``next`` of the page before.
            limit: Most runs in the page, at most 200.
        """
        return Call("GET", path("runs"), read_json(RunList), params=query(after=after, limit=limit))

    @operation
    def get(self, run_id: str, *, points: int | None = None) -> Call[RunDetail]:
        """Return the record of one training run by its id, with its learning curve.

        Args:
            run_id: Id of the run; that of the job for a job.
            points: Most points of the curve, evenly spread; None for all.
        """
        return Call("GET", path("runs", run_id), read_json(RunDetail), params=query(points=points))

    @operation
    def delete(self, run_id: str) -> Call[None]:
        """Delete the record and the learning curve of a training run.

        Its job and its model stay. Raises ``Conflict`` while the model is being trained.
        """
        return Call("DELETE", path("runs", run_id), read_nothing)


class SampleOptions(TypedDict, total=False):
    """Options for drawing images from a model, such as temperature and seed.

    ``temperature``, 0 to 2, scales the standard deviation of the latent noise (default 1.0). The same ``seed`` gives
    the same images; without a seed the service draws one. An image is the inverse of the flow at a latent: ``inverse``
    chooses the exact inverse or the approximate inverse that was learned in training (default exact).
    """

    temperature: float
    seed: int | None
    inverse: Literal["exact", "learned"]


@dataclass(frozen=True)
class SampledPixels:
    """Images drawn from a model as a uint8 array, with the seed that draws the same images again.

    The shape of the array is ``(N, H, W)`` or ``(N, H, W, C)``.
    """

    pixels: Pixels
    seed: int


@dataclass(frozen=True)
class SampleFile:
    """Images drawn from a model as the bytes of one file, with the seed that draws them again.

    The file is a PNG grid, a ``.npy`` array or a zip of PNGs.
    """

    content: bytes
    seed: int


class SamplesResource(Resource[S]):
    """Calls to the service that draw new random images from a model, 1 to 256 at once.

    A model of features alone has no samples: the service refuses with ``InvalidRequest``, type ``samples-unsupported``.
    """

    @operation
    def draw(self, ref: str, n: int = 16, **options: Unpack[SampleOptions]) -> Call[SampledPixels]:
        """Draw ``n`` random images from a model; return their uint8 pixels and the seed that was used.

        ``n`` is from 1 to 256.
        """
        return _samples(ref, n, "npy", _read_pixels, **options)

    @operation
    def scored(self, ref: str, n: int = 16, **options: Unpack[SampleOptions]) -> Call[Samples]:
        """Draw ``n`` random images from a model; return them as base64 PNGs with log-likelihoods in nats."""
        return _samples(ref, n, "json", read_json(Samples), **options)

    @operation
    def file(
        self, ref: str, n: int = 16, *, format: Literal["png", "npy", "zip"] = "png", **options: Unpack[SampleOptions]
    ) -> Call[SampleFile]:
        """Draw ``n`` random images from a model; return one file: a PNG grid, a ``.npy`` array or a zip of PNGs."""
        return _samples(ref, n, format, _read_file, **options)


def _samples(
    ref: str,
    n: int,
    format: str,
    parse: Callable[[httpx.Response], T],
    *,
    temperature: float = 1.0,
    seed: int | None = None,
    inverse: Literal["exact", "learned"] = "exact",
) -> Call[T]:
    params = query(n=n, temperature=temperature, seed=seed, inverse=inverse, format=format)
    return Call("GET", path("models", ref, "samples"), parse, params=params)


def _read_file(response: httpx.Response) -> SampleFile:
    seed = response.headers.get("X-Seed", "")
    if not (seed.isascii() and seed.isdigit()):
        raise UnexpectedAnswer(f"{response.url} answered no samples; check that the address is that of the service")
    return SampleFile(response.content, int(seed))


def _read_pixels(response: httpx.Response) -> SampledPixels:
    file = _read_file(response)
    try:
        return SampledPixels(np.load(io.BytesIO(file.content), allow_pickle=False), file.seed)
    except ValueError as error:
        raise UnexpectedAnswer(f"{response.url} answered no array: {error}") from error
