"""Rules for accepted image files, the same for all ways in; a test compares the copies in client and console."""

from __future__ import annotations

import os
import re
from pathlib import Path

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
"""Formats that are read, as Pillow names them. The content of a file decides, not its name."""
TEXT_SUFFIXES = (
    ".csv", ".htm", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".part", ".py", ".sh", ".tmp", ".toml", ".tsv",
    ".txt", ".xml", ".yaml", ".yml",
)  # fmt: skip
"""Ends of names of files that lie beside images: texts, and files that are still being written."""
SYSTEM_FILES = ("thumbs.db", "desktop.ini")
"""Names, in lower case, of files that systems put into folders of images."""
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
