from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from snf_app.http.schemas import Answer, Name
from snf_models.datasets.reference_index import ReferenceRecord
from snf_models.datasets.report import DatasetReport

EXAMPLE: dict[str, Any] = {
    "name": "bottles",
    "origin": "stored",
    "images": 1200,
    "image_shape": [3, 64, 64],
    "train": 960,
    "statistics": 120,
    "calibration": 120,
    "test": 0,
    "folds": 0,
    "smallest": [640, 480],
    "largest": [4032, 3024],
    "bytes": 731906048,
    "created": "2026-07-01T12:00:00Z",
    "location": None,
    "problem": None,
}


class DatasetEntry(Answer):
    """Summary of a dataset: origin, image sizes and image counts.

    There is a count for each part of the dataset: training, statistics, calibration and test.
    """

    name: str
    origin: Literal["built-in", "stored", "reference"] = Field(
        description="Whether it came with the product, was uploaded, or refers to images that stay where they are."
    )
    images: int
    image_shape: list[int] = Field(
        description="Channels, height, width of the training images, by default. Empty for a dataset by reference that "
        "was not inspected, which can be scored only."
    )
    train: int = Field(description="Images that fit the flow.")
    statistics: int = Field(
        description="Images that select the model and fit the anomaly statistics; with folds also for p-values."
    )
    calibration: int = Field(description="Images that only give p-values; 0 with folds.")
    test: int = Field(description="Images that are used by evaluations only.")
    folds: int = Field(
        description="Folds of `statistics` for cross-conformal prediction, which replaces the calibration part of "
        "fewer than 400 uploaded images. Else 0."
    )
    smallest: list[int] = Field(
        description="Smallest width and smallest height of the original images, or empty as `image_shape`."
    )
    largest: list[int] = Field(
        description="Largest width and largest height of the original images, or empty as `image_shape`."
    )
    bytes: int = Field(description="Size of the original files.")
    created: datetime | None = Field(description="Time of the upload; null for built-in datasets.")
    location: str | None = Field(None, description="URL of the images of a dataset by reference, else null.")
    problem: str | None = Field(None, description="Why it cannot be used, if so. Counts are 0 then.")


class ReferenceRequest(BaseModel):
    """Request to create a dataset that refers to images at a storage URL, such as an S3 folder.

    It has the name of the dataset and the location of the images, which are not copied.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "lots", "location": "s3://lots/2026", "inspect": True}]},
    )

    name: Name = Field(description="Name of the dataset.", examples=["lots"])
    location: str = Field(
        min_length=1,
        max_length=2048,
        description="URL of a folder of images, tar archives (WebDataset) and Parquet files, or of one such file: "
        "`s3://bucket/folder`, `gs://`, `az://` or `file:///folder`. It must be below one of `SNF_ALLOWED_LOCATIONS`.",
        examples=["s3://lots/2026"],
    )
    column: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="Column of Parquet files with the images: bytes, or a struct of bytes and path. Default: the only "
        "such column, or `image`.",
    )
    inspect: bool = Field(
        False,
        strict=True,
        description="Read every image once, for its size, colour and duplicates. Jobs of types other than `score` need "
        "that.",
    )


class DatasetList(Answer):
    """A page of the summaries of all datasets, the built-in ones first."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [{"datasets": [EXAMPLE], "next": None}]})

    datasets: list[DatasetEntry]
    next: str | None = Field(None, description="Value of `after` for the next page; null for the last page.")


REPORT_EXAMPLE: dict[str, Any] = {
    "format_version": 1,
    "name": "bottles",
    "created": "2026-07-01T12:00:00Z",
    "images": 1200,
    "bytes": 731906048,
    "rejected": 1,
    "rejected_files": [{"path": "lot-7/notes", "reason": "expected one of PNG, JPEG, WEBP, BMP, TIFF, GIF"}],
    "rejected_by": {"undecodable-image": 1},
    "ignored": 2,
    "formats": {"JPEG": 1200},
    "modes": {"RGB": 1200},
    "coloured": 1200,
    "sizes": [{"width": 4032, "height": 3024, "images": 1188}, {"width": 640, "height": 480, "images": 12}],
    "different_sizes": 2,
    "facts": {
        "smallest": [640, 480],
        "largest": [4032, 3024],
        "median_shorter_side": 3024,
        "coloured": True,
        "channels": 3,
    },
    "duplicates": {"images": 2, "sets": 1, "examples": [["lot-1/0001.jpg", "lot-3/0044.jpg"]]},
    "near_duplicates": {"images": 0, "sets": 0, "examples": []},
    "groups": {"lot-1": 400, "lot-3": 400, "lot-7": 400},
    "different_groups": 3,
    "split": {
        "rule": "by-image",
        "reason": "3 groups are too few to share out",
        "seed": 0,
        "train": 960,
        "statistics": 120,
        "calibration": 120,
        "groups": {},
        "folds": [],
    },
    "notes": ["1 file was left out"],
}


class DatasetDetail(DatasetEntry):
    """Summary of a dataset, with the validation report of its files and URL paths of related resources.

    The report is null for a built-in dataset, and for a dataset by reference that was not inspected.
    """

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    **EXAMPLE,
                    "report": REPORT_EXAMPLE,
                    "reference": None,
                    "links": {
                        "self": "/v1/datasets/bottles",
                        "contact_sheet": "/v1/datasets/bottles/contact-sheet",
                    },
                }
            ]
        },
    )

    report: DatasetReport | None
    reference: ReferenceRecord | None = Field(
        None, description="Files and images at the location of a dataset by reference, else null."
    )
    links: dict[str, str]
