"""Reading of the original images of an inspected dataset by reference, one at a time.

The originals of an uploaded dataset are read in the same way.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from models.datasets.references.encoded_image import EncodedImage
from models.datasets.references.referenced_files import ReferencedFiles
from models.errors import DatasetNotFound, ImageError

MAX_AHEAD = 2**20
"""Most images of one range. The range doubles as long as images are read in order: it is read piece by piece, but each
begins with the rows before it in the row group of a Parquet file."""


class ReferencedOriginals:
    """Reader of the original encoded images of a dataset whose images were left in place, not copied.

    If images are read in order, it reads whole ranges of them at once.

    Args:
        path: The index of the dataset by reference.
    """

    def __init__(self, path: Path) -> None:
        self._files = ReferencedFiles(path)
        self._range: Generator[EncodedImage] | None = None
        self._next = self._stop = 0
        self._length = 1

    def read(self, place: int) -> bytes:
        """Return the encoded bytes of the image at a given index of the dataset.

        Raises ``ImageError`` if it has changed or is gone, ``LocationUnavailable`` where it cannot be reached, and
        ``DatasetNotFound`` for a place that the dataset does not have.
        """
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
        """Stop loading images ahead of the calls of ``read`` that ask for them."""
        if self._range is not None:
            self._range.close()
            self._range = None
