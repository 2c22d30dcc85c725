"""Limits on upload size and disk space, checked while data is read and written.

The bytes are counted; sizes in file headers are not trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.disk_space import folder_bytes, require_room
from models.errors import DatasetRefused, QuotaFull

MIB = 2**20
RECHECK_BYTES = 4 * MIB


@dataclass(frozen=True)
class Limits:
    """Limits on the size of one dataset upload.

    They limit the number of files, the bytes of one file and of all files, and the compression ratio.

    Attributes:
        files: Entries of all archives and images of all arrays.
        file_bytes: Bytes of an image file; a longer file is left out.
        unpacked_bytes: Bytes of all files together.
        ratio: Unpacked over packed bytes.
        ratio_from: Unpacked bytes from which on the ratio is checked, as small flat images compress very well.
    """

    files: int = 1_000_000
    file_bytes: int = 64 * MIB
    unpacked_bytes: int = 64 * 1024 * MIB
    ratio: float = 200.0
    ratio_from: int = 64 * MIB


class UploadMeter:
    """Counter of the files and unpacked bytes of an upload, which raises ``DatasetRefused`` beyond its limits.

    ``packed`` is the size of the uploaded files in bytes, ``done`` the number of these bytes that were read, ``file``
    the name of the file that is read.
    """

    def __init__(self, packed: int, limits: Limits) -> None:
        self.packed = packed
        self.limits = limits
        self.done = 0
        self.files = 0
        self.unpacked = 0
        self.file = ""

    def add_file(self) -> None:
        """Count one more uploaded file (or image in an uploaded array), and refuse the upload beyond a limit.

        Raises ``DatasetRefused`` for more than ``limits.files``.
        """
        self.files += 1
        if self.files > self.limits.files:
            raise too_many_files(self.limits.files, self.file)

    def add_bytes(self, count: int) -> None:
        """Count unpacked bytes of an upload, and check the limits on total size and compression ratio.

        Raises ``DatasetRefused`` beyond a limit.
        """
        self.unpacked += count
        if self.unpacked > self.limits.unpacked_bytes:
            raise _too_large(f"more than {self.limits.unpacked_bytes} bytes unpacked", self.file)
        if self.unpacked > max(self.limits.ratio_from, self.limits.ratio * self.packed):
            raise _too_large(f"it unpacks to more than {self.limits.ratio:g} times its {self.packed} bytes", self.file)


def too_many_files(most: int, file: str = "") -> DatasetRefused:
    """Return a ``DatasetRefused`` error for an upload of more than ``most`` files, which ``file`` went beyond."""
    return _too_large(f"more than {most} files", file)


def _too_large(detail: str, file: str) -> DatasetRefused:
    return DatasetRefused("dataset-too-large", "The upload holds too much", f"{file}: {detail}" if file else detail)


class DiskQuota:
    """Quota for the total size of a folder, which also keeps some free space on its disk.

    ``quota`` is the largest size of the folder in bytes.
    """

    def __init__(self, folder: Path, quota: int | None) -> None:
        self._folder = folder
        self._quota_left = None if quota is None else quota - folder_bytes(folder)
        self._unchecked = 0

    def require(self, count: int) -> None:
        """Check that the folder's quota and its disk both have room for ``count`` more bytes.

        Raises ``QuotaFull`` or ``StorageFull`` otherwise.
        """
        if self._quota_left is not None and count > self._quota_left:
            raise QuotaFull(f"{count} bytes are needed, {max(0, self._quota_left)} bytes of the quota are left")
        require_room(self._folder, max(1, count))

    def take(self, count: int) -> None:
        """Subtract ``count`` bytes of new data from the remaining quota of the folder.

        Raises ``QuotaFull`` beyond the quota, and ``StorageFull`` when the disk is full, which is checked every 4 MiB.
        """
        if self._quota_left is not None:
            self._quota_left -= count
        self._unchecked += count
        if self._unchecked >= RECHECK_BYTES or (self._quota_left is not None and self._quota_left < 0):
            self.require(0)
            self._unchecked = 0
