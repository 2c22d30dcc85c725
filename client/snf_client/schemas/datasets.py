"""Datasets and the reports on their images."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from snf_client.schemas.base import Name, RecordModel, RequestModel, ResponseModel


class Split(RecordModel):
    """Division of a dataset into parts for training and calibration, with the number of images in each.

    The parts are for training, for fitting anomaly statistics, and for calibrating p-values.

    If there are ``folds``, there is no calibration part; ``statistics`` is then used for both, by cross-conformal
    prediction.
    """

    rule: Literal["by-group", "by-image", "in-order"]
    reason: str
    seed: int | None = None
    train: int
    statistics: int
    calibration: int
    groups: dict[str, list[str]] = Field({}, description="Groups of a part, the first 100 by name.")
    folds: list[int] = Field(
        [], description="Images of each fold of `statistics` where there are too few for a calibration part, else none."
    )

    @property
    def parts(self) -> str:
        """Text such as "60 training/20 statistics/20 calibration".

        >>> Split(rule="by-image", reason="", train=60, statistics=40, calibration=0, folds=[8, 8, 8, 8, 8]).parts
        '60 training/40 reference in 5 folds'
        """
        if self.folds:
            return f"{self.train} training/{self.statistics} reference in {len(self.folds)} folds"
        return f"{self.train} training/{self.statistics} statistics/{self.calibration} calibration"


class ImageFacts(RecordModel):
    """Summary of the image sizes and colours in a dataset, used to choose a model's input size and colour mode."""

    smallest: tuple[int, int] = Field(description="Smallest width and smallest height, pixels.")
    largest: tuple[int, int] = Field(description="Largest width and largest height, pixels.")
    median_shorter_side: int
    coloured: bool = Field(description="Whether any image has colour.")
    channels: int | None = Field(description="Channels that every image has as it is; None where they differ.")


class RejectedFile(RecordModel):
    """An uploaded file that was left out of a dataset, and the reason."""

    path: str
    reason: str


class SizeCount(RecordModel):
    """A width and a height in pixels, and how many images of a dataset have this size."""

    width: int
    height: int
    images: int


class Duplicates(RecordModel):
    """Summary of one kind of duplicates in a dataset, either exact duplicates or near duplicates."""

    images: int = Field(description="Images that have another like them.")
    sets: int = Field(description="Sets of duplicates, or pairs of near duplicates.")
    examples: list[list[str]]


class DatasetReport(RecordModel):
    """Report on the images of a dataset, made when all of them are first read.

    That is at the upload, or at the inspection of a dataset by reference.
    """

    format_version: Literal[1] = 1
    name: str
    created: datetime
    images: int
    bytes: int = Field(description="Sum of the originals.")
    rejected: int
    rejected_files: list[RejectedFile] = Field(description="The first 100.")
    rejected_by: dict[str, int] = Field(description="Rejected files by the slug of their reason.")
    ignored: int = Field(description="Skipped by their names: hidden files, those of systems, and texts.")
    formats: dict[str, int]
    modes: dict[str, int] = Field(description="Images by the mode of their file, as Pillow names it.")
    coloured: int = Field(description="Images with colour; grey in a colour file is grey.")
    sizes: list[SizeCount] = Field(description="The 100 most frequent.")
    different_sizes: int
    facts: ImageFacts
    duplicates: Duplicates = Field(description="Of equal pixels.")
    near_duplicates: Duplicates = Field(
        description="Of different pixels, by 64-bit difference hashes at most 3 bits apart."
    )
    groups: dict[str, int] = Field(description="Images a group, the 100 largest; '' has those in no folder.")
    different_groups: int
    split: Split
    notes: list[str] = Field(description="Advice to read before training.")


FileKind = Literal["image", "tar", "parquet"]


class ReferenceRecord(RecordModel):
    """Description of a dataset by reference, whose images are not copied: its location and its files."""

    location: str = Field(description="URL of the file or folder.")
    is_file: bool = Field(description="Whether the location is a file, else a folder.")
    column: str | None = Field(description="Column of Parquet files that was named, if any.")
    by_request: bool = Field(
        default=False,
        description="Whether a request named the location. Then SNF_ALLOWED_LOCATIONS must still list it "
        "when a job reads the images.",
    )
    created: datetime = Field(description="When the files were indexed.")
    images: int = Field(description="Images, whether or not they can be decoded.")
    files: dict[FileKind, int] = Field(description="Files with images, by kind.")
    bytes: int = Field(description="Size of these files.")
    ignored: int = Field(description="Skipped by their names: hidden files, those of systems, texts, and labels.")
    rejected: int = Field(description="Files and members of archives that cannot be read, such as compressed archives.")
    rejected_files: list[RejectedFile] = Field(description="The first 100.")
    rejected_by: dict[str, int] = Field(description="Rejected files by the slug of their reason.")
    digest: str = Field(description="SHA-256 of names, sizes and versions of the files, in their order.")


class DatasetEntry(ResponseModel):
    """Summary of a dataset: origin, image sizes and image counts."""

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


class ReferenceRequest(RequestModel):
    """Request to create a dataset that refers to images at a storage URL, such as an S3 folder."""

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


class DatasetList(ResponseModel):
    """A page of the summaries of all datasets, the built-in ones first."""

    datasets: list[DatasetEntry]
    next: str | None = Field(None, description="Value of `after` for the next page; null for the last page.")


class DatasetDetail(DatasetEntry):
    """Summary of a dataset, with the validation report of its files and URL paths of related resources.

    The report is null for a built-in dataset, and for a dataset by reference that was not inspected.
    """

    report: DatasetReport | None
    reference: ReferenceRecord | None = Field(
        None, description="Files and images at the location of a dataset by reference, else null."
    )
    links: dict[str, str]
