"""Finding the column of images in a Parquet file, and checks of the file's metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snf_models.datasets.ingest.items import refused
from snf_models.locations.range_file import RangeFile

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

NAMES = ("path", "name", "__key__", "file_name", "filename")
"""Columns that give images their names, the first that there is."""
BUFFER_BYTES = 8 * 2**20
"""Bytes of one request for a part of a column."""
PAGE_BYTES, REFERENCE_BYTES = 2**16, 8
"""Most bytes of page headers, and of a value's reference to a dictionary, in a column that has nothing else."""
SMALL_ROWS = 1_000_000
"""Rows that a file of any size may have. A larger one has at most a row for each of its bits."""


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
    import pyarrow.parquet as pq  # noqa: PLC0415  # takes time to import, and most datasets are no Parquet

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
    import pyarrow as pa  # noqa: PLC0415

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
        if (values := content_chunk(group, images).num_values) != group.num_rows:
            detail = f"row group {number} has {group.num_rows} rows, but {values} images"
            raise refused("malformed-archive", f"{name}: {detail}")
    return rows


def content_chunk(group: pq.RowGroupMetaData, images: ImageColumn) -> pq.ColumnChunkMetaData:
    return _chunk(group, images.content.path)


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
    import pyarrow as pa  # noqa: PLC0415

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
    """Return the place of the bytes in a column; None if it has none."""
    kind = _plain(field.type)
    if _is_bytes(kind):
        return ImageCell(field.name)
    return ImageCell(field.name, "bytes") if _member(kind, "bytes", _is_bytes) else None


def _member(kind: pa.DataType, name: str, is_kind: Callable[[pa.DataType], bool]) -> bool:
    import pyarrow as pa  # noqa: PLC0415

    types = [part.type for part in kind if part.name == name] if pa.types.is_struct(kind) else []
    return len(types) == 1 and is_kind(types[0])


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
