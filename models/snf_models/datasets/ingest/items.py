"""Items of an upload, and checks of file paths in archives."""

from __future__ import annotations

import re
from dataclasses import dataclass

from snf_models.errors import DatasetRefused
from snf_models.naming import CONTROL
from snf_runtime.images.preprocessing import Pixels

MAX_NAME = 1024
DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class ImageFile:
    """An encoded image file."""

    path: str
    data: bytes


@dataclass(frozen=True)
class ImagePixels:
    """An image of an array, uint8 ``(C, H, W)``; a split keeps images of one group together if possible."""

    path: str
    pixels: Pixels
    group: str | None


@dataclass(frozen=True)
class Rejected:
    path: str
    slug: str
    reason: str


@dataclass(frozen=True)
class Ignored:
    """A file that is only counted, such as a hidden file or a text."""

    path: str


Item = ImageFile | ImagePixels | Rejected | Ignored


TITLES = {
    "unsafe-archive": "The archive is not safe to read",
    "malformed-archive": "The archive is damaged",
    "malformed-array": "The array cannot be used",
    "unsuitable-column": "The column of images is not there",
    "unsupported-archive": "The kind of archive is not supported",
}


def refused(slug: str, detail: str) -> DatasetRefused:
    return DatasetRefused(slug, TITLES[slug], detail)


def safe_path(name: str) -> str:
    """Return the normalised path of an archive member; raise ``DatasetRefused`` for an unsafe one.

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
    """Names such as ``./``, which ``tar -c .`` writes, stand for the root of the archive."""
    return not set(name.split("/")) - {"", "."}
