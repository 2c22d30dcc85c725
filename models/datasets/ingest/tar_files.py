"""Images of a tar file, plain or packed, read as a stream without ever extracting anything."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self

from models.datasets.ingest.items import Ignored, Item, is_ignored, is_top, refused, safe_path
from models.datasets.ingest.limits import Meter
from models.datasets.ingest.members import CHUNK, Readable, archive_errors, read_member

MAX_EXTENDED = 8 * 2**10
"""Most bytes of one extended header: the path in it has at most 4 KiB. ``tarfile`` reads all of it, and before Python
3.11.10 and 3.12.6 it looks through it in quadratic time."""
MAX_CONSECUTIVE, MAX_GLOBAL = 8, 16
"""Most extended headers before one member, which need 4, and most global ones in an archive, which mostly has one."""
HEADER_BYTES = 2 * MAX_CONSECUTIVE * MAX_EXTENDED
"""Most bytes between two members, whatever ``tarfile`` takes them for."""
EXTENDED = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}
LZMA_MEMORY = 256 * 2**20
XZ = b"\xfd7zXZ\x00"


class _StrictInfo(tarfile.TarInfo):
    """A member whose header must be one: ``tarfile`` takes a damaged or missing header for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if buf.count(b"\0") == tarfile.BLOCKSIZE:
            return super().frombuf(buf, encoding, errors)  # the end marker, which raises what says so
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"the archive is cut off or damaged: {error}") from error

    def _proc_member(self, archive: _StrictTar) -> Self:
        """Check a header before what follows it is read. ``tarfile`` names this method as the one to override."""
        archive.check_header(self)
        member: Self = super()._proc_member(archive)  # type: ignore[misc]  # not in typeshed
        return member


class _StrictTar(tarfile.TarFile):
    """A tar whose extended headers are few and short. Its headers raise ``DatasetRefused``."""

    tarinfo = _StrictInfo
    _consecutive = 0
    _global = 0

    def check_header(self, header: tarfile.TarInfo) -> None:
        """Raise ``DatasetRefused`` for a header whose data ``tarfile`` should not read."""
        if header.size < 0:
            raise refused("malformed-archive", "a header gives a negative size")
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise refused("unsafe-archive", f"{header.name[:40]!a} is a sparse file, only plain files are read")
        if header.type not in EXTENDED:
            self._consecutive = 0
            return
        self._consecutive += 1
        self._global += header.type == tarfile.XGLTYPE
        if header.size > MAX_EXTENDED:
            raise refused("unsafe-archive", f"a header has more than {MAX_EXTENDED} bytes")
        if self._consecutive > MAX_CONSECUTIVE:
            raise refused("unsafe-archive", f"more than {MAX_CONSECUTIVE} extended headers follow each other")
        if self._global > MAX_GLOBAL:
            raise refused("unsafe-archive", f"it has more than {MAX_GLOBAL} global headers")


class _Allowance:
    """A stream that gives out ``left`` bytes at most: so many as the next thing may take."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.left = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise refused("unsafe-archive", f"more than {HEADER_BYTES} bytes lie between two files")
        return data


class _Xz:
    """An xz stream that is unpacked within bounded memory, whatever dictionary it asks for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpack = lzma.LZMADecompressor(memlimit=LZMA_MEMORY)

    def read(self, size: int) -> bytes:
        while not self._unpack.eof:
            packed = self._file.read(CHUNK) if self._unpack.needs_input else b""
            if self._unpack.needs_input and not packed:
                raise EOFError("the xz stream is cut off")
            data = self._unpack.decompress(packed, size)
            if data:
                return data
        return b""


def read_tar(path: Path, filename: str, meter: Meter, within: str) -> Iterator[Item]:
    """Yield the files of a tar, their paths led by ``within``. Raises ``DatasetRefused``."""
    start, names = meter.done, set[str]()
    with archive_errors(filename), path.open("rb") as file:
        stream = _Allowance(_unpacked(file))
        stream.left = HEADER_BYTES
        with _StrictTar.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                archive.members.clear()  # else every header is kept
                meter.add_file()
                stream.left = HEADER_BYTES
                if member.isdir() and is_top(member.name):
                    continue
                name = safe_path(member.name)
                if member.isdir():
                    continue
                if not member.isfile() or member.issparse():
                    raise refused("unsafe-archive", f"{filename}: {name} is a link or a device, not a plain file")
                if name in names:
                    raise refused("malformed-archive", f"{filename}: {name} is there twice")
                names.add(name)
                if member.size < 0:  # an extended header may give another one than the header
                    raise refused("malformed-archive", f"{filename}: {name} has a negative size")
                content = archive.extractfile(member)
                assert content is not None
                item = read_member(within + name, _Member(content, stream), meter)
                stream.left = HEADER_BYTES
                yield Ignored(within + name) if is_ignored(name) else item
                meter.done = start + file.tell()


class _Member:
    """A member's content: every piece of it is allowed for as it is asked for."""

    def __init__(self, content: IO[bytes], stream: _Allowance) -> None:
        self._content = content
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        self._stream.left = size + HEADER_BYTES
        return self._content.read(size)


def _unpacked(file: IO[bytes]) -> Readable:
    start = file.read(6)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file)
    return _Xz(file) if start == XZ else file
