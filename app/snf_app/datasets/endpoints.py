from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query, Request, Response

from snf_app.datasets.service import FILE, NAME, NEAR_DUPLICATES, detail, entries
from snf_app.http.errors import Problem
from snf_app.http.openapi import FILES, created, form, sends
from snf_app.http.router import PageQuery, Router
from snf_app.jobs.service import refuse_in_use
from snf_app.state import DatasetStoreDep, DatasetUploadsDep, JobStoreDep, SettingsDep
from snf_client.schemas.base import NAME_PATTERN
from snf_client.schemas.datasets import DatasetDetail, DatasetList, ReferenceRequest
from snf_models.datasets import dataset_names
from snf_models.datasets.store import NAMES
from snf_models.disk import locked
from snf_models.errors import DatasetNotFound
from snf_worker.jobs.record import Job

PATH = "/v1/datasets"

# Plain functions: the framework runs them in threads, where disk, network and job store may block.
router = Router(PATH, "datasets")

DatasetName = Annotated[str, Path(description="The dataset's name.", examples=["bottles"])]

_FIELDS: dict[str, dict[str, Any]] = {
    NAME: {
        "type": "string",
        "pattern": NAME_PATTERN,
        "description": "Name of the dataset. Sent first, a name that is taken ends the upload early.",
        "examples": ["bottles"],
    },
    NEAR_DUPLICATES: {
        "type": "string",
        "enum": ["keep", "drop"],
        "default": "keep",
        "description": "`drop` leaves out all but the first of images that are alike. Each is listed in the report.",
    },
    FILE: FILES
    | {
        "description": "A zip, tar (plain, gzip, bzip2, xz), .npz or .npy file, or images: PNG, JPEG, WebP, BMP, TIFF "
        "or GIF, one or many. Folders in archives and in file names are groups, which the split keeps together."
    },
}


@router.post(
    "",
    "Upload a dataset",
    role="train",
    errors=(409, 507),
    **created(201, "The dataset can be trained on.", "dataset"),
    body={"required": True, "content": form([NAME, FILE], **_FIELDS)},
)
def upload_dataset(
    request: Request, uploads: DatasetUploadsDep, store: DatasetStoreDep, settings: SettingsDep, response: Response
) -> DatasetDetail:
    """Store uploaded images or archives as a new dataset.

    The answer has its counts, its split and a report of rejected files.

    Single files that are not usable images are left out and listed in the report. An archive or array that is damaged,
    unsafe or too large is refused as a whole, and nothing of it is stored.
    """
    dataset = detail(uploads.receive(request), store, settings.data_dir)
    response.headers["Location"] = dataset.links["self"]
    return dataset


@router.post(
    "/references",
    "Refer to images at a location",
    role="train",
    errors=(409, 507),
    **created(201, "Jobs of type score take the dataset, and with `inspect` all others.", "dataset"),
)
def refer_dataset(
    reference: ReferenceRequest,
    request: Request,
    uploads: DatasetUploadsDep,
    store: DatasetStoreDep,
    settings: SettingsDep,
    response: Response,
) -> DatasetDetail:
    """Create a dataset of images at a storage location, without copying them.

    The images stay where they are. The answer tells what was found there.

    The files are listed, tar archives are read once, and of Parquet files only the metadata is read. Every file is
    indexed, or counted with a reason in `reference`. A file that changes later gives errors of its images. 503 if the
    location cannot be reached. The request takes as long as the indexing, at most an hour; it ends when the caller
    leaves, and then there is no dataset.
    """
    uploads.refer(request, reference)
    dataset = detail(reference.name, store, settings.data_dir)
    response.headers["Location"] = dataset.links["self"]
    return dataset


@router.get("", "List the datasets")
def list_datasets(store: DatasetStoreDep, settings: SettingsDep, query: Annotated[PageQuery, Query()]) -> DatasetList:
    """List the datasets of the service, also those that cannot be used, built-in ones first and then by name.

    `problem` is the reason why a dataset cannot be used, else null. `next` in the answer is the value of `after` for
    the next page, or null on the last page.
    """
    names, after = query.page(dataset_names(settings.data_dir, store), _place)
    return DatasetList(datasets=entries(store, settings.data_dir, names), next=after)


def _place(name: str) -> tuple[int, str]:
    return NAMES.index(name) if name in NAMES else len(NAMES), name


@router.get("/{name}", "Show a dataset", errors=(404,))
def get_dataset(name: DatasetName, store: DatasetStoreDep, settings: SettingsDep) -> DatasetDetail:
    """Show a dataset's number of images, their sizes, and their split for training, calibration and testing.

    For a dataset that was uploaded, or refers to images that were inspected, it also has near duplicates. Rejected
    files are listed for all but built-in datasets.
    """
    return detail(name, store, settings.data_dir)


@router.get(
    "/{name}/contact-sheet",
    "Show the contact sheet of a dataset",
    role="train",
    errors=(404,),
    **sends("Up to 100 images, evenly spread over the paths.", "image/png"),
)
def get_dataset_contact_sheet(name: DatasetName, store: DatasetStoreDep) -> Response:
    """Return a PNG picture that shows up to 100 images of a dataset.

    404 for a built-in dataset, and 422 for a dataset by reference that was not inspected.
    """
    if name in NAMES:
        detail = f"{name} is built in and has none"
        raise Problem("contact-sheet-not-found", detail, pointer="/path/name")
    try:
        content = store.contact_sheet(name).read_bytes()
    except FileNotFoundError:
        raise DatasetNotFound(f"the dataset {name!r} has just been deleted") from None
    return Response(content, media_type="image/png")


@router.delete("/{name}", "Delete a dataset", role="admin", errors=(404, 409, 507))
def delete_dataset(name: DatasetName, store: DatasetStoreDep, jobs: JobStoreDep, settings: SettingsDep) -> None:
    """Delete a dataset and the images that the service stores for it.

    409 for a built-in dataset, and while a job that has not ended uses the dataset.

    Models that were trained on it stay, and so do the images of a dataset by reference.
    """
    if name in NAMES:
        raise Problem("dataset-built-in", f"{name} came with the product or lies in SNF_DATA_DIR")

    def uses(job: Job) -> bool:
        return name in (job.dataset, *job.parameters.get("against", ()), *job.parameters.get("masks", {}).values())

    with locked(settings.jobs_dir):
        refuse_in_use(jobs, uses, "dataset-in-use", name)
        store.delete(name)
