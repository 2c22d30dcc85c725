"""Reading of single originals of an inspected dataset by reference, as those of an upload are read."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from snf_models.datasets.references.encoded_image import EncodedImage
from snf_models.datasets.references.referenced_files import ReferencedFiles
from snf_models.errors import DatasetNotFound, ImageError

MAX_AHEAD = 2**20
"""Most images of one range, which doubles while images are read in order: each rereads the start of its row group."""


class ReferencedOriginals:
    """Reader of encoded images, which reads whole ranges ahead where images are read in order."""

    def __init__(self, path: Path) -> None:
        self._files = ReferencedFiles(path)
        self._range: Generator[EncodedImage] | None = None
        self._next = self._stop = 0
        self._length = 1

    def read(self, place: int) -> bytes:
        """Return an encoded image; raise ``ImageError``, ``LocationUnavailable`` or ``DatasetNotFound``."""
        if self._range is None or not self._next <= place < self._stop:
            in_order = self._next <= place < self._stop + self._length
            self._length = min(2 * self._length, MAX_AHEAD) if in_order else 1
            self.close()
            self._range = self._files.read(place, place + self._length)
            self._next, self._stop = place, place + self._length
        for image in self._range:
            self._next = image.place + 1
            if image.place == place:
                if isinstance(image.content, ImageError):
                    raise image.content
                return image.content
        raise DatasetNotFound(f"expected an image at the place {place} of the dataset, got none")

    def close(self) -> None:
        """Stop reading ahead."""
        if self._range is not None:
            self._range.close()
            self._range = None
