"""Reading of the encoded images of a dataset by reference from where they are."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, groupby
from pathlib import Path

from models.datasets.ingest.limits import Limits
from models.datasets.references.fetch import Piece, read_ahead
from models.datasets.references.index import IndexedFile, ReferenceIndex, RowGroup, TarMember
from models.datasets.references.parquet import NamedBytes, read_groups, row_name
from models.errors import ImageError
from models.locations.errors import FileChanged, LocationNotFound
from models.locations.location import Location
from models.locations.ranges import GAP_BYTES
from models.prefetch import prefetch

PIECE_BYTES = 4 * 2**20
"""Bytes of neighbouring images in an archive that one request reads."""
SMALL_FILES, SMALL_BYTES = 8, 2**20
"""Image files that one thread reads one after the other: so many, or as many bytes."""


class ReferencedFiles:
    """A reader of the encoded images of a dataset by reference, by range and in order, with few large requests.

    An image whose file has changed or is gone since it was indexed is an ``ImageError``, and so is one that is too
    large. Memory is bounded, whatever the range.

    Args:
        path: The index.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, start: int, stop: int) -> Generator[NamedBytes]:
        """Yield name and bytes of images ``start`` to ``stop - 1``, or name and ``ImageError``.

        Raises ``LocationUnavailable`` where the location cannot be reached.
        """
        if start >= stop:
            return
        with ReferenceIndex.open(self._path) as index:
            record = index.record()
            for kind, files in groupby(index.files(start, stop), lambda file: file.kind):
                if kind == "parquet":
                    for file in files:
                        groups = list(index.groups(max(start, file.first), min(stop, file.first + file.images)))
                        rows = _rows(record.folder, file, record.column, groups, start, stop)
                        # Read in another thread, beside the decoding of the rows before.
                        with closing(prefetch(rows, 2)) as batches:
                            yield from chain.from_iterable(batches)
                else:
                    pieces = (
                        _small_files(record.folder, files)
                        if kind == "image"
                        else (piece for file in files for piece in _members(index, record.folder, file, start, stop))
                    )
                    with closing(read_ahead(pieces)) as read:
                        yield from chain.from_iterable(read)


def _small_files(folder: Location, files: Iterable[IndexedFile]) -> Iterator[Piece[list[NamedBytes]]]:
    """Yield pieces of several image files each."""
    several: list[IndexedFile] = []
    size = 0
    for file in files:
        if several and (len(several) == SMALL_FILES or size + file.size > SMALL_BYTES):
            yield Piece(size, partial(_read_files, folder, several))
            several, size = [], 0
        several.append(file)
        size += file.size if file.size <= Limits.file_bytes else 0
    yield Piece(size, partial(_read_files, folder, several))


def _read_files(folder: Location, files: Sequence[IndexedFile]) -> list[NamedBytes]:
    return [(file.name, _read_file(folder, file)) for file in files]


def _read_file(folder: Location, file: IndexedFile) -> bytes | ImageError:
    if file.size > Limits.file_bytes:
        return _too_large()
    try:
        return folder.child(file.name).read(file.version)
    except (FileChanged, LocationNotFound):
        return changed()


def _members(
    index: ReferenceIndex, folder: Location, file: IndexedFile, start: int, stop: int
) -> Iterator[Piece[list[NamedBytes]]]:
    """Yield pieces of several neighbouring images of a tar archive each."""
    several: list[TarMember] = []
    for member in index.members(max(start, file.first), min(stop, file.first + file.images)):
        if several:
            end = several[-1].start + several[-1].size
            if member.start - end > GAP_BYTES or member.start + member.size - several[0].start > PIECE_BYTES:
                yield _piece(folder, file, several)
                several = []
        several.append(member)
    if several:
        yield _piece(folder, file, several)


def _piece(folder: Location, file: IndexedFile, members: Sequence[TarMember]) -> Piece[list[NamedBytes]]:
    names = [f"{file.name}/{member.name}" for member in members]
    first, end = members[0].start, members[-1].start + members[-1].size
    if len(members) == 1 and members[0].size > Limits.file_bytes:
        return Piece(0, lambda: [(names[0], _too_large())])

    def read() -> list[NamedBytes]:
        try:
            data = folder.child(file.name).read_range(first, end, file.version)
        except (FileChanged, LocationNotFound):
            return [(name, changed()) for name in names]
        return [
            (name, data[member.start - first : member.start - first + member.size])
            for name, member in zip(names, members, strict=True)
        ]

    return Piece(end - first, read)


def _rows(
    folder: Location, file: IndexedFile, column: str | None, groups: Sequence[RowGroup], start: int, stop: int
) -> Generator[list[NamedBytes]]:
    """Yield the rows of a Parquet file that are in a range, in batches."""
    done = max(start, file.first)
    stop = min(stop, file.first + file.images)
    try:
        with folder.child(file.name).open(file.version) as content:
            for batch in read_groups(content, file, column, groups, start, stop):
                done += len(batch)
                yield batch
    except (FileChanged, LocationNotFound):
        yield [(row_name(file, place), changed()) for place in range(done, stop)]


def changed() -> ImageError:
    """Return the error of an image whose file is not the one that was indexed."""
    return ImageError(
        "unreadable-image",
        "The file cannot be read",
        "the file has changed or is gone since the dataset was made; delete the dataset and refer to the files again",
    )


def _too_large() -> ImageError:
    return ImageError("file-too-large", "The file is too large", f"at most {Limits.file_bytes} bytes are taken")
