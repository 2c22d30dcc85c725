from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, groupby
from pathlib import Path

from snf_models.datasets.ingest.limits import Limits
from snf_models.datasets.references.encoded_image import EncodedImage, changed, too_large, unreadable
from snf_models.datasets.references.index import IndexedFile, ReferenceIndex, RowGroup, TarMember
from snf_models.datasets.references.parquet_rows import failed_rows, read_groups
from snf_models.datasets.references.read_ahead import Piece, read_ahead
from snf_models.errors import ImageError
from snf_models.locations.errors import FileChanged, FileUnreadable, LocationNotFound
from snf_models.locations.location import Location
from snf_models.prefetch import prefetch

GAP_BYTES = 2**20
"""Bytes between two images up to which both are read with one request: reading them takes less time than a request."""
PIECE_BYTES = 4 * 2**20
"""Bytes of neighbouring images in an archive that one request reads."""
FILE_ERRORS = FileChanged, FileUnreadable, LocationNotFound
"""Errors of one file, where the location itself can be read."""
SMALL_FILES, SMALL_BYTES = 8, 2**20
"""Image files that one thread reads one after the other: so many, or as many bytes."""


class ReferencedFiles:
    """Reader of encoded images by range, in bounded memory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, start: int, stop: int) -> Generator[EncodedImage]:
        """Yield every image once, or its error; raise ``LocationUnavailable`` where the location cannot be reached."""
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


def _small_files(folder: Location, files: Iterable[IndexedFile]) -> Iterator[Piece[list[EncodedImage]]]:
    group: list[IndexedFile] = []
    size = 0
    for file in files:
        if group and (len(group) == SMALL_FILES or size + file.size > SMALL_BYTES):
            yield Piece(size, partial(_read_files, folder, group))
            group, size = [], 0
        group.append(file)
        size += file.size if file.size <= Limits.file_bytes else 0
    yield Piece(size, partial(_read_files, folder, group))


def _read_files(folder: Location, files: Sequence[IndexedFile]) -> list[EncodedImage]:
    return [EncodedImage(file.first, file.name, _read_file(folder, file)) for file in files]


def _read_file(folder: Location, file: IndexedFile) -> bytes | ImageError:
    if file.size > Limits.file_bytes:
        return too_large()
    try:
        return folder.child(file.name).read(file.version)
    except FILE_ERRORS as error:
        return _image_error(error)


def _members(
    index: ReferenceIndex, folder: Location, file: IndexedFile, start: int, stop: int
) -> Iterator[Piece[list[EncodedImage]]]:
    """Yield pieces of a few neighbouring images of a tar archive each."""
    group: list[TarMember] = []
    for member in index.members(max(start, file.first), min(stop, file.first + file.images)):
        if group:
            end = group[-1].start + group[-1].size
            if member.start - end > GAP_BYTES or member.start + member.size - group[0].start > PIECE_BYTES:
                yield _piece(folder, file, group)
                group = []
        group.append(member)
    if group:
        yield _piece(folder, file, group)


def _piece(folder: Location, file: IndexedFile, members: Sequence[TarMember]) -> Piece[list[EncodedImage]]:
    first, end = members[0].start, members[-1].start + members[-1].size

    def read() -> list[EncodedImage]:
        try:
            data = folder.child(file.name).read_range(first, end, file.version)
        except FILE_ERRORS as error:
            problem = _image_error(error)
            return each(lambda _member: problem)
        return each(lambda member: data[member.start - first : member.start - first + member.size])

    def each(content: Callable[[TarMember], bytes | ImageError]) -> list[EncodedImage]:
        return [EncodedImage(member.place, f"{file.name}/{member.name}", content(member)) for member in members]

    if len(members) == 1 and members[0].size > Limits.file_bytes:
        return Piece(0, lambda: each(lambda _member: too_large()))
    return Piece(end - first, read)


def _rows(
    folder: Location, file: IndexedFile, column: str | None, groups: Sequence[RowGroup], start: int, stop: int
) -> Generator[list[EncodedImage]]:
    done = max(start, file.first)
    stop = min(stop, file.first + file.images)
    try:
        with folder.child(file.name).open(file.version) as content:
            for batch in read_groups(content, file, column, groups, start, stop):
                done += len(batch)
                yield batch
    except FILE_ERRORS as error:
        yield from failed_rows(file, range(done, stop), _image_error(error))


def _image_error(error: FileChanged | FileUnreadable | LocationNotFound) -> ImageError:
    return unreadable(error.detail) if isinstance(error, FileUnreadable) else changed()
