"""Tar archives as streams: a reader that extracts nothing and trusts no header, and a reproducible writer."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol, Self

PIECE_BYTES = 2**18
Kind = Literal["file", "folder", "other"]
MAX_EXTENDED = 8 * 2**10
"""Bytes of an extended header. Its path has at most 4 KiB, and old versions of Python need quadratic time."""
MAX_CONSECUTIVE, MAX_GLOBAL = 8, 16
"""Extended headers before one member, which needs at most 4, and global ones in an archive, which mostly has one."""
HEADER_BYTES = 2 * MAX_CONSECUTIVE * MAX_EXTENDED  # bytes between two members, whatever `tarfile` takes them for
EXTENDED = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}


class UnsafeTar(ValueError):
    """A tar archive is unsafe to read, such as one with a sparse file or an oversized header."""


class Readable(Protocol):
    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most ``size``; none at the end."""
        ...


class PieceStream:
    """Pieces of bytes as a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")
        self.read_bytes = 0

    def read(self, size: int, /) -> bytes:
        while not self._piece and (piece := next(self._pieces, None)) is not None:
            self._piece = memoryview(piece)
        data, self._piece = self._piece[:size], self._piece[size:]
        self.read_bytes += len(data)
        return bytes(data)


@dataclass(frozen=True)
class TarEntry:
    """Member of an archive. Its content must be read before the next member."""

    name: str
    kind: Kind
    size: int
    start: int  # of the content in the archive, bytes
    _reader: TarReader
    _file: IO[bytes] | None

    def read(self, size: int, /) -> bytes:
        return b"" if self._file is None else self._reader.read_allowed(self._file, size)


class TarReader:
    """Iterator over the members of a stream. Raises ``tarfile.TarError`` for damage, ``UnsafeTar`` for an attack."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._left = HEADER_BYTES
        self._rest: Readable | None = None

    def __iter__(self) -> Iterator[TarEntry]:
        with _StrictTar.open(fileobj=self, mode="r|", encoding="utf-8", errors="surrogateescape") as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                archive.members.clear()  # else every header is kept
                self._left = HEADER_BYTES
                if member.size < 0:  # an extended header may give another one than the header
                    raise tarfile.ReadError(f"{member.name[:100]!a} has a negative size")
                plain = member.isfile() and not member.issparse()
                file = archive.extractfile(member) if plain else None
                kind: Kind = "file" if file is not None else "folder" if member.isdir() else "other"
                yield TarEntry(member.name, kind, member.size, member.offset_data, self, file)
                self._left = HEADER_BYTES
            self._rest = archive.fileobj

    def rest(self) -> Iterator[bytes]:
        """Yield what follows the last member, after the first zero block: only zeros in a regular archive."""
        while self._rest is not None and (piece := self.read_allowed(self._rest, PIECE_BYTES)):
            yield piece

    def read(self, size: int) -> bytes:
        """Read for ``tarfile``; raise ``UnsafeTar`` beyond the bytes that the next part of the archive may take."""
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise UnsafeTar(f"more than {HEADER_BYTES} bytes lie between two files")
        return data

    def read_allowed(self, file: Readable, size: int) -> bytes:
        self._left = size + HEADER_BYTES
        return file.read(size)


@dataclass(frozen=True)
class TarPieces:
    """The bytes of an archive of ``size`` bytes, to iterate over once, in pieces of at most 256 KiB."""

    size: int
    _pieces: Iterator[bytes]
    _files: ExitStack

    def __iter__(self) -> TarPieces:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """Close the files, if the iteration stops before the last piece."""
        self._files.close()


def write_tar(folder: Path, names: Sequence[str]) -> TarPieces:
    """Return an archive of files, all of which are opened first, so that they may be deleted meanwhile."""
    with ExitStack() as stack:
        opened = [stack.enter_context((folder / name).open("rb")) for name in names]
        members = [tarfile.TarInfo(name) for name in names]
        for member in members:
            member.size = (folder / member.name).stat().st_size
        files = stack.pop_all()
    headers = [member.tobuf(tarfile.GNU_FORMAT) for member in members]
    padding = [bytes(-member.size % tarfile.BLOCKSIZE) for member in members]
    used = sum(map(len, headers + padding)) + sum(member.size for member in members)
    end = 2 * tarfile.BLOCKSIZE + -(used + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE

    def pieces() -> Iterator[bytes]:
        with files:
            for header, file, zeros in zip(headers, opened, padding, strict=True):
                yield header
                while piece := file.read(PIECE_BYTES):
                    yield piece
                yield zeros
            yield bytes(end)

    return TarPieces(used + end, pieces(), files)


class _StrictInfo(tarfile.TarInfo):
    """A tar member with a checked header, as ``tarfile`` takes a damaged header for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # not in typeshed
            raise  # the end marker
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"the archive is cut off or damaged: {error}") from error

    def _proc_member(self, archive: _StrictTar) -> Self:
        """Check a header before its data is read; ``tarfile`` documents this method as the one to override."""
        archive.check_header(self)
        member: Self = super()._proc_member(archive)  # type: ignore[misc]  # not in typeshed
        return member


class _StrictTar(tarfile.TarFile):
    tarinfo = _StrictInfo
    _consecutive = 0
    _global = 0

    def check_header(self, header: tarfile.TarInfo) -> None:
        """Raise ``UnsafeTar`` for a header that is unsafe to read, and ``ReadError`` for a damaged header."""
        if header.size < 0:
            raise tarfile.ReadError("a header gives a negative size")
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise UnsafeTar(f"{header.name[:40]!a} is not a plain file: it is a sparse file")
        if header.type not in EXTENDED:
            self._consecutive = 0
            return
        self._consecutive += 1
        self._global += header.type == tarfile.XGLTYPE
        if header.size > MAX_EXTENDED:
            raise UnsafeTar(f"a header has more than {MAX_EXTENDED} bytes")
        if self._consecutive > MAX_CONSECUTIVE:
            raise UnsafeTar(f"more than {MAX_CONSECUTIVE} extended headers follow each other")
        if self._global > MAX_GLOBAL:
            raise UnsafeTar(f"it has more than {MAX_GLOBAL} global headers")
