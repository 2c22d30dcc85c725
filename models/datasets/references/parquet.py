"""Images in a column of Parquet files: finding the column, and reading rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.datasets.ingest.items import refused
from models.datasets.ingest.limits import Limits
from models.datasets.references.index import IndexedFile, RowGroup
from models.errors import ImageError
from models.locations.range_file import RangeFile

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

NamedBytes = tuple[str, bytes | ImageError]
"""The name of an image, and its file or the reason why it cannot be read."""
NAMES = ("path", "name", "__key__", "file_name", "filename")
"""Columns that give images their names, the first that there is."""
BUFFER_BYTES = 8 * 2**20
"""Bytes of one request for a part of a column."""
BATCH_BYTES, BATCH_ROWS = 16 * 2**20, 1024
"""Most bytes, about, and most rows that are held at once."""


@dataclass(frozen=True)
class ImageColumn:
    """Where a Parquet file has its images: the path of the bytes, and of the names, or None."""

    content: str
    names: str | None


@contextmanager
def open_parquet(file: RangeFile) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file whose columns are read in pieces, so that memory does not grow with their size."""
    import pyarrow.parquet as pq  # noqa: PLC0415  # takes time to import, and most datasets are no Parquet

    with pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False) as parquet:
        yield parquet


def image_column(schema: pa.Schema, column: str | None, name: str) -> ImageColumn:
    """Return the column of images: the named one, or the only one with bytes or with a struct of bytes and path.

    Args:
        schema: The columns.
        column: The name of the column; None to find it by its type.
        name: The file, for errors.

    Raises:
        DatasetRefused: There is no such column, or more than one.
    """
    found = {field.name: content for field in schema if (content := _content(field)) is not None}
    if column is not None:
        if column not in schema.names:
            raise refused("unsuitable-column", f"{name}: expected a column {column!r}, got {', '.join(schema.names)}")
        if column not in found:
            kind = schema.field(column).type
            raise refused("unsuitable-column", f"{name}: expected bytes in the column {column!r}, got {kind}")
        chosen = column
    elif len(found) == 1 or "image" in found:
        chosen = "image" if "image" in found else next(iter(found))
    else:
        got = f"several: {', '.join(found)}; name one with column=" if found else f"none: {', '.join(schema.names)}"
        raise refused("unsuitable-column", f"{name}: expected a column with the bytes of images, got {got}")
    names = next((field for field in NAMES if field in schema.names and _is_text(schema.field(field).type)), None)
    if names is None and found[chosen] != chosen and "path" in [part.name for part in schema.field(chosen).type]:
        names = f"{chosen}.path"
    return ImageColumn(found[chosen], names)


def read_groups(
    content: RangeFile, file: IndexedFile, column: str | None, groups: Sequence[RowGroup], start: int, stop: int
) -> Iterator[list[NamedBytes]]:
    """Yield names and bytes of those images ``start`` to ``stop - 1`` that are in a Parquet file, in batches.

    A column is read from the beginning of a row group, so the rows before ``start`` are read, too. Where a row group is
    damaged, the rest of its images are errors.

    Args:
        content: The file.
        file: Its entry in the index.
        column: The column with the images; None to find it.
        groups: Its row groups with these images.
        start: The place of the first image in the dataset.
        stop: The place of the image after the last.
    """
    import pyarrow as pa  # noqa: PLC0415

    with open_parquet(content) as parquet:
        images = image_column(parquet.schema_arrow, column, file.name)
        for group in groups:
            done, end = max(start, group.place), min(stop, group.place + group.images)
            try:
                for rows in _read_rows(parquet, images, group, done, end, file):
                    done += len(rows)
                    yield rows
            except (pa.ArrowException, OSError) as error:
                damaged = ImageError(
                    "unreadable-image", "The file cannot be read", f"the row group is damaged: {error}"
                )
                yield [(row_name(file, place), damaged) for place in range(done, end)]


def _read_rows(
    parquet: pq.ParquetFile, images: ImageColumn, group: RowGroup, start: int, stop: int, file: IndexedFile
) -> Iterator[list[NamedBytes]]:
    rows = parquet.metadata.row_group(group.number)
    size = max(1, min(BATCH_ROWS, BATCH_BYTES * rows.num_rows // (rows.total_byte_size + 1)))
    columns = [images.content] + ([images.names] if images.names is not None else [])
    place = group.place
    for batch in parquet.iter_batches(size, row_groups=[group.number], columns=columns, use_threads=False):
        low, high = max(start - place, 0), min(stop - place, batch.num_rows)
        if low < high:
            chosen = batch.slice(low, high - low)
            contents = _values(chosen, images.content)
            names = _values(chosen, images.names) if images.names is not None else [None] * len(contents)
            yield [
                (name or row_name(file, number), _checked(content))
                for number, (name, content) in enumerate(zip(names, contents, strict=True), place + low)
            ]
        place += batch.num_rows
        if place >= stop:
            return


def row_name(file: IndexedFile, place: int) -> str:
    """Return the name of an image without one of its own: that of its file, and the number of its row."""
    return f"{file.name}/{place - file.first:06d}"


def _checked(content: bytes | None) -> bytes | ImageError:
    if content is None:
        return ImageError("empty-image", "The file is empty", "expected the bytes of an image, got an empty cell")
    if len(content) > Limits.file_bytes:
        return ImageError("file-too-large", "The file is too large", f"at most {Limits.file_bytes} bytes are taken")
    return content


def _values(batch: pa.RecordBatch, path: str) -> list[Any]:
    if path in batch.schema.names:
        values: list[Any] = batch.column(path).to_pylist()
        return values
    name, _, member = path.rpartition(".")
    return [None if value is None else value[member] for value in batch.column(name).to_pylist()]


def _content(field: pa.Field) -> str | None:
    """Return the path of the bytes in a column; None if it has none."""
    import pyarrow as pa  # noqa: PLC0415

    kind = _plain(field.type)
    if _is_bytes(kind):
        name: str = field.name
        return name
    if pa.types.is_struct(kind):
        return next((f"{field.name}.bytes" for part in kind if part.name == "bytes" and _is_bytes(part.type)), None)
    return None


def _plain(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa  # noqa: PLC0415

    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa  # noqa: PLC0415

    kind = _plain(kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa  # noqa: PLC0415

    kind = _plain(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
