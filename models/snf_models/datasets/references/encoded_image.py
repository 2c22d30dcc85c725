from __future__ import annotations

from typing import NamedTuple

from snf_models.datasets.ingest.limits import Limits
from snf_models.errors import ImageError


class EncodedImage(NamedTuple):
    """Index, name and undecoded bytes of an image, or the reason why it cannot be read."""

    place: int
    name: str
    content: bytes | ImageError


def unreadable(detail: str) -> ImageError:
    return ImageError("unreadable-image", "The file cannot be read", detail)


def changed() -> ImageError:
    return unreadable(
        "the file has changed or is gone since the dataset was made; delete the dataset and refer to the files again"
    )


def too_large() -> ImageError:
    return ImageError("file-too-large", "The file is too large", f"at most {Limits.file_bytes} bytes are taken")
