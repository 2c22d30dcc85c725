from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path

from snf_models.datasets.image_source import NamedImage, file_stamp
from snf_models.datasets.references.index import ReferenceIndex, read_record
from snf_models.datasets.references.referenced_files import ReferencedFiles
from snf_models.errors import DatasetNotFound, ImageError
from snf_runtime.images.codec import Preprocessing, decode_image


class ReferencedImages:
    """Image source that can be pickled; where it is unpickled, the index must be at the same path."""

    def __init__(self, index: Path, preprocessing: Preprocessing) -> None:
        record = read_record(index)
        self._index = index
        self._stamp = file_stamp(index)
        self._preprocessing = preprocessing
        self.count = record.images
        self.digest = record.digest

    @cached_property
    def largest_group(self) -> int:
        """Images of the largest row group, which is always read from its start; 1 without Parquet files."""
        with ReferenceIndex.open(self._index) as index:
            return index.largest_group()

    def read(self, start: int, stop: int) -> Iterator[NamedImage]:
        """Yield images or their errors; raise ``LocationUnavailable`` where the location cannot be reached."""
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
