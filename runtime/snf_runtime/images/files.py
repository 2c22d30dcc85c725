"""Rules for accepted image files, the same for all ways in, and the search for them in folders."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from snf_runtime.errors import ImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
"""Formats that are read, as Pillow names them. The content of a file decides, not its name."""
TEXT_SUFFIXES = (
    ".csv", ".htm", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".part", ".py", ".sh", ".tmp", ".toml", ".tsv",
    ".txt", ".xml", ".yaml", ".yml",
)  # fmt: skip
"""Ends of names of files that lie beside images: texts, and files that are still being written."""
SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # names, in lower case, of files that systems put into folders of images
SYSTEM_FOLDER = "__MACOSX"


def _max_pixels() -> int:
    wanted = os.environ.get("SNF_MAX_IMAGE_PIXELS") or "100000000"
    if not re.fullmatch("[0-9]{1,18}", wanted) or int(wanted) < 1:
        raise ValueError(f"expected SNF_MAX_IMAGE_PIXELS to be a whole number from 1 to 10^18, got {wanted}")
    return int(wanted)


MAX_PIXELS = _max_pixels()
"""Largest number of pixels of a file, by the setting; larger files are refused by their header, before decoding."""


def is_no_image(path: str) -> bool:
    """Return whether a path (with ``/``) is hidden, of a system or a text: it is skipped and only counted.

    >>> [is_no_image(path) for path in ("a/.DS_Store", "__MACOSX/a.png", "Thumbs.db", "notes.TXT", "a.png", "a.heic")]
    [True, True, True, True, False, False]
    """
    parts = path.split("/")
    name = parts[-1].lower()
    hidden = any(part.startswith(".") or part == SYSTEM_FOLDER for part in parts)
    return hidden or name in SYSTEM_FILES or name.endswith(TEXT_SUFFIXES)


def path_text(path: str | Path) -> str:
    """Convert a file path to text, with backslash escapes for bytes that are not valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


MAX_FILE_BYTES = 256 * 2**20  # largest image file: as large as a request to the service may be


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
