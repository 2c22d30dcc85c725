"""Items of an upload, such as images and rejected files, and checks of file paths in archives."""

from __future__ import annotations

import re
from dataclasses import dataclass

from models.errors import DatasetRefused
from models.naming import CONTROL
from snf_runtime.images.preprocessing import Pixels

MAX_NAME = 1024
DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class ImageFile:
    """An image file in an upload, still encoded, such as a PNG: its path and its bytes."""

    path: str
    data: bytes


@dataclass(frozen=True)
class ImagePixels:
    """Image from an uploaded NumPy array, with its pixels, its path and optionally a group name.

    Images of one group stay together, if possible, when the dataset is split.

    The pixels are uint8 ``(C, H, W)``.
    """

    path: str
    pixels: Pixels
    group: str | None


@dataclass(frozen=True)
class Rejected:
    """A file of an upload that is left out of the dataset, with a reason code and text."""

    path: str
    slug: str
    reason: str


@dataclass(frozen=True)
class Ignored:
    """File of an upload that is skipped because its name is not that of an image.

    Examples are hidden files and texts. These files are only counted.
    """

    path: str


Item = ImageFile | ImagePixels | Rejected | Ignored


TITLES = {
    "unsafe-archive": "The archive is not safe to read",
    "malformed-archive": "The archive is damaged",
    "malformed-array": "The array cannot be used",
    "unsuitable-column": "The column of images is not there",
    "unsupported-archive": "The kind of archive is not supported",
}
"""Titles of the errors of whole uploads, by slug."""


def refused(slug: str, detail: str) -> DatasetRefused:
    """Return a ``DatasetRefused`` error for an upload, with a reason code ``slug`` and a text ``detail``.

    ``slug``, such as ``unsafe-archive``, also gives the title.
    """
    return DatasetRefused(slug, TITLES[slug], detail)


def safe_path(name: str) -> str:
    """Return the path of an archive member, checked for safety and without ``.`` or empty components.

    Raises ``DatasetRefused`` for an unsafe path.

    Unsafe are absolute and empty paths, ``..``, drive letters, backslashes, control characters, more than 1024
    characters, and text that is not UTF-8.

    >>> safe_path("./lot 1//seven.png")
    'lot 1/seven.png'
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise refused("unsafe-archive", f"the name {name!a} is not UTF-8") from None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    reason = None
    if len(name) > MAX_NAME:
        reason, name = f"is longer than {MAX_NAME} characters", name[:40] + "..."
    elif CONTROL.search(name):
        reason = "has control characters, or characters that reverse text"
    elif "\\" in name:
        reason = "has a backslash; folders are separated by /"
    elif name.startswith("/"):
        reason = "is absolute"
    elif DRIVE.match(name):
        reason = "begins with a drive letter"
    elif ".." in parts:
        reason = "leads out of its folder by '..'"
    elif not parts:
        reason = "is empty"
    if reason is not None:
        raise refused("unsafe-archive", f"the name {name!a} {reason}")
    return "/".join(parts)


def is_top(name: str) -> bool:
    """Return whether the name of an archive entry stands for the root folder of the archive.

    Names such as ``.`` and ``./`` do, which ``tar -c .`` writes.
    """
    return not set(name.split("/")) - {"", "."}
