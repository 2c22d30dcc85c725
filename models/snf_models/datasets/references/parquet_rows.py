"""Images in the rows of a Parquet file, in bounded memory; every indexed row gives an image or an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from snf_models.datasets.ingest.items import MAX_NAME
from snf_models.datasets.ingest.limits import Limits
from snf_models.datasets.references.encoded_image import EncodedImage, too_large, unreadable
from snf_models.datasets.references.index import IndexedFile, RowGroup
from snf_models.datasets.references.parquet_columns import (
    ImageCell,
    ImageColumn,
    content_chunk,
    is_read_as_dictionary,
    open_parquet,
    sound_parquet,
)
from snf_models.errors import DatasetRefused, ImageError
from snf_models.locations.range_file import RangeFile
from snf_models.naming import printable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_BYTES, BATCH_ROWS = 16 * 2**20, 256
"""Most bytes, about, and most rows that are decoded or handed on at once. A single image may be larger."""
DICTIONARY_ROWS = 4
"""Most rows that are decoded at once where some values are in a dictionary, which any row may repeat."""
ERROR_ROWS = 1024
"""Most images without content that are handed on at once."""


def read_groups(
    content: RangeFile, file: IndexedFile, column: str | None, groups: Sequence[RowGroup], start: int, stop: int
) -> Iterator[list[EncodedImage]]:
    """Read row groups from their beginning; where one is damaged, or ends early, the rest of its images are errors."""
    try:
        with open_parquet(content, column, file.name) as (parquet, images):
            for group in groups:
                places = range(max(start, group.place), min(stop, group.place + group.images))
                yield from _read_group(parquet, images, group, places, file)
    except DatasetRefused as error:  # of the opening: row groups have errors of their own
        places = range(max(start, file.first), min(stop, file.first + file.images))
        yield from failed_rows(file, places, unreadable(error.detail))


def failed_rows(file: IndexedFile, places: range, error: ImageError) -> Iterator[list[EncodedImage]]:
    """Yield the error for each place, in batches."""
    for start in range(0, len(places), ERROR_ROWS):
        yield [EncodedImage(place, row_name(file, place), error) for place in places[start : start + ERROR_ROWS]]


def row_name(file: IndexedFile, place: int) -> str:
    """Name an unnamed image by its file and its row."""
    return f"{file.name}/{place - file.first:06d}"


def _read_group(
    parquet: pq.ParquetFile, images: ImageColumn, group: RowGroup, places: range, file: IndexedFile
) -> Iterator[list[EncodedImage]]:
    done = places.start
    problem = f"the row group has fewer than the {group.images} rows that the file gives"
    try:
        with sound_parquet(file.name):
            for rows in _read_rows(parquet, images, group, places, file):
                done += len(rows)
                yield rows
    except DatasetRefused as error:
        problem = f"the row group is damaged: {error.detail}"
    yield from failed_rows(file, range(done, places.stop), unreadable(problem))


def _read_rows(
    parquet: pq.ParquetFile, images: ImageColumn, group: RowGroup, places: range, file: IndexedFile
) -> Iterator[list[EncodedImage]]:
    metadata = parquet.metadata.row_group(group.number)
    chunk = content_chunk(metadata, images)
    size = max(1, min(BATCH_ROWS, BATCH_BYTES * metadata.num_rows // (chunk.total_uncompressed_size + 1)))
    if chunk.has_dictionary_page and not is_read_as_dictionary(parquet, images.content):
        size = min(size, DICTIONARY_ROWS)
    place = group.place
    for batch in parquet.iter_batches(size, row_groups=[group.number], columns=images.paths, use_threads=False):
        low, high = max(places.start - place, 0), min(places.stop - place, batch.num_rows)
        if low < high:
            yield from _expanded(batch.slice(low, high - low), images, file, place + low)
        place += batch.num_rows
        if place >= places.stop:
            return


def _expanded(
    batch: pa.RecordBatch, images: ImageColumn, file: IndexedFile, place: int
) -> Iterator[list[EncodedImage]]:
    """Yield the images of a batch in lists of few bytes. Rows with the same stored value share its bytes."""
    numbers, contents = _cells(batch, images.content)
    name_numbers: Sequence[int | None] = [None] * len(numbers)
    names: Any = None
    if images.names is not None:
        name_numbers, names = _cells(batch, images.names)
    rows: list[EncodedImage] = []
    shared: dict[int, bytes | ImageError] = {}
    size = 0
    for row, (number, name_number) in enumerate(zip(numbers, name_numbers, strict=True), place):
        name = row_name(file, row) if name_number is None else _name(names[name_number], file, row)
        if number is None:
            rows.append(EncodedImage(row, name, _empty()))
            continue
        if number not in shared:
            content = contents[number].as_buffer()
            if rows and size + content.size > BATCH_BYTES:
                yield rows
                rows, shared, size = [], {}, 0
            if content.size > Limits.file_bytes:
                shared[number] = too_large()
            else:
                shared[number] = content.to_pybytes()
                size += content.size
        rows.append(EncodedImage(row, name, shared[number]))
    yield rows


def _cells(batch: pa.RecordBatch, cell: ImageCell) -> tuple[list[int | None], pa.Array]:
    """Return the value number of every row, None for an empty cell, and the values, each once."""
    import pyarrow as pa  # noqa: PLC0415

    array = batch.column(batch.schema.get_field_index(cell.column))
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if cell.member is not None:
        array = array.flatten()[array.type.get_field_index(cell.member)]  # takes the empty cells of the struct over
    if not isinstance(array, pa.DictionaryArray):
        array = array.dictionary_encode()
    return array.indices.to_pylist(), array.dictionary


def _name(value: pa.Scalar, file: IndexedFile, place: int) -> str:
    text = value.as_buffer()
    if not 0 < text.size <= MAX_NAME:
        return row_name(file, place)
    return f"{file.name}/{printable(text.to_pybytes().decode('utf-8', 'backslashreplace'))}"


def _empty() -> ImageError:
    return ImageError("empty-image", "The file is empty", "expected the bytes of an image, got an empty cell")
