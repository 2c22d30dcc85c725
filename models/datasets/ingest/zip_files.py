"""Files in zip archives, read one at a time and never extracted."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.datasets.ingest.items import Ignored, Item, is_top, refused, safe_path
from models.datasets.ingest.limits import UploadMeter
from models.datasets.ingest.members import archive_errors, read_member
from models.images.policy import is_no_image

DIRECTORY_BYTES = 128
"""Most bytes of an entry in the directory of a zip file, on average."""
ENCRYPTED, UTF8 = 0x1, 0x800
Members = dict[str, zipfile.ZipInfo]
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


class _Bounded(io.FileIO):
    """A file with bounded single reads, because ``zipfile`` reads a directory of any size at once."""

    def __init__(self, path: Path, largest: int) -> None:
        super().__init__(path)
        self._largest = largest

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._largest:
            raise refused("unsafe-archive", f"its directory has {size} bytes, at most {self._largest} are read")
        return super().read(size)


@contextmanager
def open_zip(path: Path, filename: str, meter: UploadMeter) -> Iterator[tuple[zipfile.ZipFile, Members]]:
    """Open an uploaded zip archive, check its table of contents, and yield it with a dict of its files by path.

    Raises ``DatasetRefused`` for a damaged or encrypted file, and for unsafe paths or entries that are not plain files.
    """
    with (
        archive_errors(filename),
        _Bounded(path, max(2**20, DIRECTORY_BYTES * meter.limits.files)) as file,
        zipfile.ZipFile(file) as archive,
    ):
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
    """Yield the files of an open zip archive, read one at a time; none is extracted to disk.

    ``within`` is put before their paths. Raises ``DatasetRefused``.
    """
    for name, info in members.items():
        if is_no_image(name):
            yield Ignored(within + name)
        else:
            with archive.open(info) as stream:
                item = read_member(within + name, stream, meter)
            yield item
        meter.done += info.compress_size


def _name(info: zipfile.ZipInfo) -> str:
    """Return the stored name of a file in a zip archive.

    Raises ``UnicodeDecodeError`` where it is not UTF-8.
    """
    if info.flag_bits & UTF8:
        return info.orig_filename
    return info.orig_filename.encode("cp437").decode()  # zipfile takes unmarked bytes for code page 437
