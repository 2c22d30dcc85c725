"""Encoded images of a dataset by reference, and the errors for images that cannot be read."""

from __future__ import annotations

from typing import NamedTuple

from models.datasets.ingest.limits import Limits
from models.errors import ImageError


class EncodedImage(NamedTuple):
    """Encoded bytes of an image in a referenced dataset, with its index and name.

    An image that cannot be read has an ``ImageError`` in place of the bytes.
    """

    place: int
    name: str
    content: bytes | ImageError


def unreadable(detail: str) -> ImageError:
    """Return the error of an image whose file cannot be read."""
    return ImageError("unreadable-image", "The file cannot be read", detail)


def changed() -> ImageError:
    """Return the error for an image whose file has changed or is gone since it was indexed."""
    return unreadable(
        "the file has changed or is gone since the dataset was made; delete the dataset and refer to the files again"
    )


def too_large() -> ImageError:
    """Return the error for an image whose encoded size exceeds the limit in bytes."""
    return ImageError("file-too-large", "The file is too large", f"at most {Limits.file_bytes} bytes are taken")
