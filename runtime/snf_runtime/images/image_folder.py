"""Search for image files in a folder, and reading of image files."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from snf_runtime.errors import ImageError
from snf_runtime.images.policy import is_no_image

MAX_FILE_BYTES = 256 * 2**20
"""Largest image file: as large as a request to the service may be."""


def read_file(path: Path) -> bytes:
    """Return the content of a file of at most 256 MiB; raise ``ImageError`` if it is larger or cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block for ever
            detail = "expected a plain file, no folder or pipe"
            raise ImageError("unreadable-image", "The file cannot be read", detail)
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # of a path with a NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError("unreadable-image", "The file cannot be read", reason) from error
    if len(data) > MAX_FILE_BYTES:
        raise ImageError("file-too-large", "The file is too large", f"at most {MAX_FILE_BYTES} bytes are taken")
    return data


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return files to judge and files to skip. What cannot be read is to be judged, so that reading it says why."""
    found: list[Path] = []

    def keep(error: OSError) -> None:
        found.append(Path(error.filename))

    for root, folders, names in os.walk(folder, onerror=keep):
        found += (Path(root, name) for name in names)
        found += (path for name in folders if (path := Path(root, name)).is_symlink())
    judged: list[Path] = []
    skipped: list[Path] = []
    for path in sorted(found, key=_natural_order):
        # Joined here: the folder itself, which cannot be listed, has no parts, where its text would be a hidden ".".
        (skipped if is_no_image("/".join(path.relative_to(folder).parts)) else judged).append(path)
    return judged, skipped


def _natural_order(path: Path) -> tuple[list[list[str | int]], str]:
    """Return the sort key of a path: folder by folder, and runs of digits by their number."""
    parts = (re.split("([0-9]+)", part) for part in path.parts)
    return [[int(run) if place % 2 else run for place, run in enumerate(runs)] for runs in parts], path.as_posix()
