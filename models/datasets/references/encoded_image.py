"""Encoded images of a dataset by reference, and the errors for images that cannot be read."""

from __future__ import annotations

from typing import NamedTuple

from models.datasets.ingest.limits import Limits
from models.errors import ImageError


class EncodedImage(NamedTuple):
    """Image of a dataset by reference: its index, its name and its undecoded bytes.

    An image that cannot be read has an ``ImageError`` in place of the bytes.
    """

    place: int
    name: str
    content: bytes | ImageError


def unreadable(detail: str) -> ImageError:
    """Return an ``ImageError`` for an image whose file cannot be read, with the reason ``detail``."""
    return ImageError("unreadable-image", "The file cannot be read", detail)


def changed() -> ImageError:
    """Return an ``ImageError`` for an image whose file has changed or is gone since it was indexed."""
    return unreadable(
        "the file has changed or is gone since the dataset was made; delete the dataset and refer to the files again"
    )


def too_large() -> ImageError:
    """Return an ``ImageError`` for an image of more than ``Limits.file_bytes`` encoded bytes."""
    return ImageError("file-too-large", "The file is too large", f"at most {Limits.file_bytes} bytes are taken")
