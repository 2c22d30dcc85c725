"""Files in zip archives, read one at a time and never extracted."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snf_models.datasets.ingest.items import Ignored, Item, is_top, refused, safe_path
from snf_models.datasets.ingest.limits import UploadMeter, too_many_files
from snf_models.datasets.ingest.members import archive_errors, read_member
from snf_runtime.images.policy import is_no_image

DIRECTORY_BYTES = 128
"""Most bytes of an entry in the directory of a zip file, on average."""
ENCRYPTED, UTF8 = 0x1, 0x800
Members = dict[str, zipfile.ZipInfo]
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


ENTRY = b"PK\x01\x02"
ENTRY_BYTES, NAME_LENGTHS = 46, struct.Struct("<28x3H")
"""Bytes of an entry of the directory before its name, extra field and comment, and the lengths of these."""


class _Bounded(io.FileIO):
    """A zip file with a bounded directory: ``zipfile`` takes all its entries, whatever number the end record says."""

    def __init__(self, path: Path, meter: UploadMeter) -> None:
        super().__init__(path)
        self._meter = meter
        self._largest = max(2**20, DIRECTORY_BYTES * meter.limits.files)
        self.is_opened = False

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._largest:
            raise refused("unsafe-archive", f"its directory has {size} bytes, at most {self._largest} are read")
        data = super().read(size)
        if not self.is_opened and _has_more_entries(data, self._meter.limits.files - self._meter.files):
            raise too_many_files(self._meter.limits.files, self._meter.file)
        return data


def _has_more_entries(directory: bytes, most: int) -> bool:
    """Return whether a directory, as far as it is sound, has more than ``most`` entries."""
    position = 0
    for _ in range(most + 1):
        if not directory.startswith(ENTRY, position) or position + ENTRY_BYTES > len(directory):
            return False
        position += ENTRY_BYTES + sum(NAME_LENGTHS.unpack_from(directory, position))
    return True


@contextmanager
def open_zip(path: Path, filename: str, meter: UploadMeter) -> Iterator[tuple[zipfile.ZipFile, Members]]:
    """Refuse damaged or encrypted archives, unsafe paths and entries that are not plain files."""
    with (
        archive_errors(filename),
        _Bounded(path, meter) as file,
        zipfile.ZipFile(file) as archive,
    ):
        file.is_opened = True
        members: Members = {}
        for info in archive.infolist():
            meter.add_file()
            given = _name(info)
            if info.is_dir() and is_top(given):
                continue
            name = safe_path(given)
            if info.is_dir():
                continue
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise refused("unsafe-archive", f"{filename}: {name} is a link or a device, only plain files are read")
            if info.flag_bits & ENCRYPTED:
                raise refused("unsupported-archive", f"{filename}: {name} is encrypted")
            if info.compress_type not in METHODS:
                raise refused("unsupported-archive", f"{filename}: {name} is neither stored nor deflated")
            if name in members:
                raise refused("malformed-archive", f"{filename}: {name} is there twice")
            members[name] = info
        yield archive, members


def zip_files(archive: zipfile.ZipFile, members: Members, meter: UploadMeter, within: str) -> Iterator[Item]:
    for name, info in members.items():
        if is_no_image(name):
            yield Ignored(within + name)
        else:
            with archive.open(info) as stream:
                item = read_member(within + name, stream, meter)
            yield item
        meter.done += info.compress_size


def _name(info: zipfile.ZipInfo) -> str:
    """Return the stored name; raise ``UnicodeDecodeError`` where it is not UTF-8."""
    if info.flag_bits & UTF8:
        return info.orig_filename
    return info.orig_filename.encode("cp437").decode()  # zipfile takes unmarked bytes for code page 437
