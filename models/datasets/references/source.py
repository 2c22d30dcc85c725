"""Image source of a dataset by reference, which reads the images from their original location."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path

from models.datasets.image_source import NamedImage, file_stamp
from models.datasets.references.index import ReferenceIndex, read_record
from models.datasets.references.referenced_files import ReferencedFiles
from models.errors import DatasetNotFound, ImageError
from snf_runtime.images.codec import Preprocessing, decode_image


class ReferencedImages:
    """Image source of a dataset by reference, a dataset that points to images elsewhere without copying them.

    The images are read from where they are, and decoded when they are read.

    It can be pickled, and holds no connection. Where it is unpickled, the index must be at the same path.

    Args:
        index: The index, of :func:`~models.datasets.references.build_index.build_index`.
        preprocessing: What the model does to images.

    Raises:
        DatasetNotFound: There is no such index; also while images are read, if it was deleted meanwhile.
    """

    def __init__(self, index: Path, preprocessing: Preprocessing) -> None:
        record = read_record(index)
        self._index = index
        self._stamp = file_stamp(index)
        self._preprocessing = preprocessing
        self.count = record.images
        self.digest = record.digest

    @cached_property
    def largest_group(self) -> int:
        """Number of images in the largest Parquet row group of the dataset, or 1 if it has no Parquet files.

        A row group is always read from its start.
        """
        with ReferenceIndex.open(self._index) as index:
            return index.largest_group()

    def read(self, start: int, stop: int) -> Iterator[NamedImage]:
        """Yield a ``(name, decoded image)`` pair for each image with index ``start`` to ``stop - 1``.

        An unusable image is replaced by an ``ImageError``.

        Raises ``LocationUnavailable`` where the location cannot be reached.
        """
        if file_stamp(self._index) != self._stamp:
            raise DatasetNotFound(f"the dataset of the index {self._index} was deleted meanwhile")
        with closing(ReferencedFiles(self._index).read(start, min(stop, self.count))) as files:
            for _, name, content in files:
                if isinstance(content, ImageError):
                    yield name, content
                    continue
                try:
                    yield name, decode_image(content, self._preprocessing)
                except ImageError as error:
                    yield name, error
