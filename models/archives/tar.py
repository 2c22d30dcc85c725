"""Streaming tar archives: a reader for untrusted uploads, and a writer with reproducible bytes.

The reader extracts nothing and trusts no header.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol, Self

PIECE_BYTES = 2**18
MAX_EXTENDED = 8 * 2**10
"""Bytes of one extended header: the path in it has at most 4 KiB. ``tarfile`` reads all of it, and before Python
3.11.10 and 3.12.6 it looks through it in quadratic time."""
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
    """Error for a tar archive that is unsafe to read, such as one with an oversized header.

    The archive has a sparse file, an extended header of over 8 KiB, too many extended headers, or too many bytes
    between two members.
    """


class Readable(Protocol):
    """Protocol of a binary stream that is read in pieces.

    ``read(size)`` returns at most ``size`` bytes, and empty bytes at the end.
    """

    def read(self, size: int, /) -> bytes:
        """Return the next bytes of the stream, at most ``size``.

        Returns empty bytes at the end of the stream.
        """
        ...


@dataclass(frozen=True)
class TarEntry:
    """Member of a tar archive, with its name, kind, size and content.

    The kind is "file", "folder" or "other". The size is in bytes, and the content is a stream.

    ``start`` is the position of its first byte in the archive. The content must be read before the next member.
    """

    name: str
    kind: Literal["file", "folder", "other"]
    size: int
    start: int
    content: Readable


class TarReader:
    """Iterator over the members of an untrusted tar archive.

    The archive is read once, from a stream. Nothing is written to disk.

    A damaged archive raises ``tarfile.TarError``, a hostile one ``UnsafeTar``.
    """

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
        """Yield the bytes that follow the last member of the archive, in pieces.

        Iterate over all members first. The bytes begin after the first of the two zero blocks that end an archive, so a
        regular archive yields only zeros.
        """
        while self._rest is not None and (piece := _TarContent(self._rest, self._stream).read(PIECE_BYTES)):
            yield piece


class TarPieces:
    """Iterator that packs files into a tar archive and yields its bytes in pieces of at most 256 KiB.

    The content is read from the files during the iteration.

    ``size`` is the size of the whole archive in bytes. The files stay open until the last piece or :meth:`close`.
    """

    def __init__(self, size: int, pieces: Iterator[bytes], files: ExitStack) -> None:
        self.size = size
        self._pieces = pieces
        self._files = files

    def __iter__(self) -> TarPieces:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """Close the source files that this iterator reads to build the archive.

        This is needed only if iteration stops before the last piece.
        """
        self._files.close()


def write_tar(folder: Path, names: Sequence[str]) -> TarPieces:
    """Return a tar archive of the named files of a folder, as an iterator of bytes.

    Equal files give equal bytes.

    All files are opened before the first piece, so that the archive is complete even if they are deleted meanwhile.
    They are closed after the last piece, or by :meth:`TarPieces.close`.

    Args:
        folder: The folder of the files.
        names: Names of the files in the folder, in the order of the archive.

    Raises:
        OSError: A file cannot be opened.
    """
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
    """A tar file whose extended headers must be few and short."""

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
