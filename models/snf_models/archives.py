"""Tar archives as streams: a reader that extracts nothing and trusts no header, and a reproducible writer."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol, Self

PIECE_BYTES = 2**18
MAX_EXTENDED = 8 * 2**10
"""Bytes of an extended header. Its path has at most 4 KiB, and old versions of Python need quadratic time."""
MAX_CONSECUTIVE, MAX_GLOBAL = 8, 16
"""Extended headers before one member, which needs at most 4, and global ones in an archive, which mostly has one."""
HEADER_BYTES = 2 * MAX_CONSECUTIVE * MAX_EXTENDED
"""Bytes between two members, whatever ``tarfile`` takes them for."""
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


@dataclass(frozen=True)
class TarEntry:
    """Member of an archive. Its content must be read before the next member."""

    name: str
    kind: Literal["file", "folder", "other"]
    size: int
    start: int  # of the content in the archive, bytes
    content: Readable


class TarReader:
    """Iterator over the members of a stream. Raises ``tarfile.TarError`` for damage, ``UnsafeTar`` for an attack."""

    def __init__(self, stream: Readable) -> None:
        self._stream = _Allowance(stream)
        self._rest: Readable | None = None

    def __iter__(self) -> Iterator[TarEntry]:
        stream = self._stream
        stream.left = HEADER_BYTES
        with _StrictTar.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                archive.members.clear()  # else every header is kept
                stream.left = HEADER_BYTES
                if member.size < 0:  # an extended header may give another one than the header
                    raise tarfile.ReadError(f"{member.name[:100]!a} has a negative size")
                plain = member.isfile() and not member.issparse()
                file = archive.extractfile(member) if plain else None
                kind: Literal["file", "folder", "other"] = (
                    "file" if file is not None else "folder" if member.isdir() else "other"
                )
                yield TarEntry(member.name, kind, member.size, member.offset_data, _TarContent(file, stream))
                stream.left = HEADER_BYTES
            self._rest = archive.fileobj

    def rest(self) -> Iterator[bytes]:
        """Yield what follows the last member, after the first zero block: only zeros in a regular archive."""
        while self._rest is not None and (piece := _TarContent(self._rest, self._stream).read(PIECE_BYTES)):
            yield piece


class TarPieces:
    """Iterator over the bytes of an archive of ``size`` bytes, in pieces of at most 256 KiB."""

    def __init__(self, size: int, pieces: Iterator[bytes], files: ExitStack) -> None:
        self.size = size
        self._pieces = pieces
        self._files = files

    def __iter__(self) -> TarPieces:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """Close the files, if the iteration stops before the last piece."""
        self._files.close()


def write_tar(folder: Path, names: Sequence[str]) -> TarPieces:
    """Return an archive of files, all of which are opened first, so that they may be deleted meanwhile."""
    files = ExitStack()
    try:
        opened = [files.enter_context((folder / name).open("rb")) for name in names]
        sizes = [(folder / name).stat().st_size for name in names]
    except OSError:
        files.close()
        raise
    headers = [_header(name, size) for name, size in zip(names, sizes, strict=True)]
    used = sum(len(header) + size + _padding(size) for header, size in zip(headers, sizes, strict=True))
    end = 2 * tarfile.BLOCKSIZE + -(used + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE

    def pieces() -> Iterator[bytes]:
        with files:
            for header, size, file in zip(headers, sizes, opened, strict=True):
                yield header
                while piece := file.read(PIECE_BYTES):
                    yield piece
                yield bytes(_padding(size))
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


class _Allowance:
    """A stream that refuses to read more than ``left`` bytes, the most that the next part of the archive may take."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.left = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise UnsafeTar(f"more than {HEADER_BYTES} bytes lie between two files")
        return data


class _TarContent:
    """The content of a tar member, as a stream that extends the allowance of the archive by each piece."""

    def __init__(self, file: Readable | IO[bytes] | None, stream: _Allowance) -> None:
        self._file = file
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        self._stream.left = size + HEADER_BYTES
        return b"" if self._file is None else self._file.read(size)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> int:
    return -size % tarfile.BLOCKSIZE
