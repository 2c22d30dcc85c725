"""Files in tar archives, plain or compressed, read as a stream and never extracted."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from snf_models.archives.tar import Readable, TarReader
from snf_models.datasets.ingest.items import Ignored, Item, is_top, refused, safe_path
from snf_models.datasets.ingest.limits import UploadMeter
from snf_models.datasets.ingest.members import archive_errors, read_member
from snf_runtime.images.policy import is_no_image

LZMA_MEMORY = 256 * 2**20
XZ_PIECE = 2**14
"""Packed bytes that are read at once. What follows the end of a stream is copied for each of many short streams."""
XZ = b"\xfd7zXZ\x00"


class _Xz:
    """An xz file of one or more streams, decompressed in bounded memory whatever the size of its dictionary."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._packed = b""
        self._unpack = _decompressor()

    def read(self, size: int) -> bytes:
        while not self._unpack.eof or self._has_next():
            packed, self._packed = self._packed, b""
            if self._unpack.needs_input and not packed:
                packed = self._file.read(XZ_PIECE)
                if not packed:
                    raise EOFError("the xz stream is cut off")
            data = self._unpack.decompress(packed, size)
            if data:
                return data
        return b""

    def _has_next(self) -> bool:
        """Begin the next stream, which zeros may precede; return False if there is none."""
        packed = self._unpack.unused_data.lstrip(b"\0")
        while not packed and (piece := self._file.read(XZ_PIECE)):
            packed = piece.lstrip(b"\0")
        if packed:
            self._unpack, self._packed = _decompressor(), packed
        return bool(packed)


def _decompressor() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=LZMA_MEMORY)


def read_tar(path: Path, filename: str, meter: UploadMeter, within: str) -> Iterator[Item]:
    """Yield images and files left out, with ``within`` before their paths; raise ``DatasetRefused``."""
    start, names = meter.done, set[str]()
    with archive_errors(filename), path.open("rb") as file:
        for entry in TarReader(_unpacked(file)):
            meter.add_file()
            if entry.kind == "folder" and is_top(entry.name):
                continue
            name = safe_path(entry.name)
            if entry.kind == "folder":
                continue
            if entry.kind != "file":
                raise refused("unsafe-archive", f"{filename}: {name} is a link or a device, not a plain file")
            if name in names:
                raise refused("malformed-archive", f"{filename}: {name} is there twice")
            names.add(name)
            item = read_member(within + name, entry.content, meter)
            yield Ignored(within + name) if is_no_image(name) else item
            meter.done = start + file.tell()


def _unpacked(file: IO[bytes]) -> Readable:
    start = file.read(6)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file)
    return _Xz(file) if start == XZ else file
