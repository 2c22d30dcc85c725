"""Images in the rows of Parquet files, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from snf_models.datasets.references import (
    EncodedImage,
    IndexedFile,
    RowGroup,
    failed_rows,
    row_name,
    too_large,
    unreadable,
)
from snf_models.datasets.uploads import MAX_NAME, Limits, refused
from snf_models.errors import DatasetRefused, ImageError
from snf_models.locations.location import RangeFile
from snf_models.naming import printable

# Arrow's own allocator keeps freed pages: it took twice the memory for pages of 200 MB.
pa.set_memory_pool(pa.system_memory_pool())

NAMES = ("path", "name", "__key__", "file_name", "filename")
"""Columns that give images their names, the first that there is."""
BUFFER_BYTES = 8 * 2**20  # bytes of one request for a part of a column
PAGE_BYTES, REFERENCE_BYTES = 2**16, 8
"""Most bytes of page headers, and of a value's reference to a dictionary, in a column that has nothing else."""
SMALL_ROWS = 1_000_000  # rows that a file of any size may have. A larger one has at most a row for each of its bits


@dataclass(frozen=True)
class ImageCell:
    """A column, or one member of a column of structs."""

    column: str
    member: str | None = None

    @property
    def path(self) -> str:
        return self.column if self.member is None else f"{self.column}.{self.member}"


@dataclass(frozen=True)
class ImageColumn:
    """The columns of the images and, if present, of their names."""

    content: ImageCell
    names: ImageCell | None

    @property
    def paths(self) -> list[str]:
        return [self.content.path] + ([] if self.names is None else [self.names.path])


@contextmanager
def open_parquet(file: RangeFile, column: str | None, name: str) -> Iterator[tuple[pq.ParquetFile, ImageColumn]]:
    """Columns are read in pieces, to bound memory. Raises ``DatasetRefused``, also unless exactly one column fits."""
    with sound_parquet(name):
        with pq.ParquetFile(file) as plain:
            metadata, images = plain.metadata, image_column(plain.schema_arrow, column, name)
        repeated = [path for path in images.paths if _only_dictionaries(metadata, path)]
        parquet = pq.ParquetFile(
            file, metadata=metadata, read_dictionary=repeated, buffer_size=BUFFER_BYTES, pre_buffer=False
        )
    with parquet:
        yield parquet, images


@contextmanager
def sound_parquet(name: str) -> Iterator[None]:
    """Translate errors of a damaged file to ``DatasetRefused``; lack of memory and location errors pass unchanged."""
    try:
        yield
    except (MemoryError, pa.ArrowCancelled):
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise refused("malformed-archive", f"{name}: it is no sound Parquet file: {error}") from error


def group_rows(parquet: pq.ParquetFile, images: ImageColumn, name: str, size: int) -> list[int]:
    """Raise ``DatasetRefused`` where a file of ``size`` bytes cannot have its rows, or contradicts itself."""
    metadata = parquet.metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    rows = [group.num_rows for group in groups]
    most = max(SMALL_ROWS, 8 * size)
    if min(rows, default=0) < 0 or sum(rows) > most:
        got = f"row groups of {', '.join(map(str, rows[:5]))}" if len(rows) <= 5 else f"{sum(rows)} rows"
        raise refused("malformed-archive", f"{name}: expected at most {most} rows in {size} bytes, got {got}")
    for number, group in enumerate(groups):
        if (values := _chunk(group, images.content.path).num_values) != group.num_rows:
            detail = f"row group {number} has {group.num_rows} rows, but {values} images"
            raise refused("malformed-archive", f"{name}: {detail}")
    return rows


def _chunk(group: pq.RowGroupMetaData, path: str) -> pq.ColumnChunkMetaData:
    chunks = map(group.column, range(group.num_columns))
    return next(chunk for chunk in chunks if chunk.path_in_schema == path)


def _only_dictionaries(metadata: pq.FileMetaData, path: str) -> bool:
    """Writers leave a dictionary where it grows; to read the rest as one takes several times its size."""
    for number in range(metadata.num_row_groups):
        chunk = _chunk(metadata.row_group(number), path)
        if not chunk.has_dictionary_page:
            return False
        rest = chunk.total_compressed_size - (chunk.data_page_offset - chunk.dictionary_page_offset)
        if rest > PAGE_BYTES + REFERENCE_BYTES * chunk.num_values:
            return False
    return True


def is_read_as_dictionary(parquet: pq.ParquetFile, cell: ImageCell) -> bool:
    kind = parquet.schema_arrow.field(cell.column).type
    return bool(pa.types.is_dictionary(kind if cell.member is None else kind.field(cell.member).type))


def image_column(schema: pa.Schema, column: str | None, name: str) -> ImageColumn:
    """Without a name: the only column of bytes or of structs with ``bytes``, or that named ``image``; else refuse."""
    fields = {field.name: field for field in schema}
    cells = {field.name: cell for field in schema if (cell := _content(field)) is not None}
    if column is not None:
        if column not in fields:
            raise refused("unsuitable-column", f"{name}: expected a column {column!r}, got {', '.join(schema.names)}")
        if column not in cells:
            kind = fields[column].type
            raise refused("unsuitable-column", f"{name}: expected bytes in the column {column!r}, got {kind}")
        chosen = column
    elif len(cells) == 1 or "image" in cells:
        chosen = "image" if "image" in cells else next(iter(cells))
    else:
        got = f"several: {', '.join(cells)}; name one with column=" if cells else f"none: {', '.join(schema.names)}"
        raise refused("unsuitable-column", f"{name}: expected a column with the bytes of images, got {got}")
    times = Counter(schema.names)
    if times[chosen] > 1:
        raise refused("unsuitable-column", f"{name}: expected one column {chosen!r}, got {times[chosen]}")
    content = cells[chosen]
    text = next((field for field in NAMES if times[field] == 1 and _is_text(fields[field].type)), None)
    if text is not None:
        return ImageColumn(content, ImageCell(text))
    has_path = content.member is not None and _member(_plain(fields[chosen].type), "path", _is_text)
    return ImageColumn(content, ImageCell(chosen, "path") if has_path else None)


def _content(field: pa.Field) -> ImageCell | None:
    kind = _plain(field.type)
    if _is_bytes(kind):
        return ImageCell(field.name)
    return ImageCell(field.name, "bytes") if _member(kind, "bytes", _is_bytes) else None


def _member(kind: pa.DataType, name: str, is_kind: Callable[[pa.DataType], bool]) -> bool:
    types = [part.type for part in kind if part.name == name] if pa.types.is_struct(kind) else []
    return len(types) == 1 and is_kind(types[0])


def _plain(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_bytes(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


BATCH_BYTES, BATCH_ROWS = 16 * 2**20, 256
"""Most bytes, about, and most rows that are decoded or handed on at once. A single image may be larger."""
DICTIONARY_ROWS = 4
"""Most rows that are decoded at once where some values are in a dictionary, which any row may repeat."""


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
    chunk = _chunk(metadata, images.content.path)
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
            error = ImageError("empty-image", "The file is empty", "expected the bytes of an image, got an empty cell")
            rows.append(EncodedImage(row, name, error))
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
