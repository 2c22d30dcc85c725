"""Limits on upload size and disk space. Bytes are counted as they pass; sizes in headers are not trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from snf_models.disk_space import folder_bytes, require_room
from snf_models.errors import DatasetRefused, QuotaFull

MIB = 2**20
RECHECK_BYTES = 4 * MIB


@dataclass(frozen=True)
class Limits:
    """Limits on one upload."""

    files: int = 1_000_000  # entries of all archives and images of all arrays
    file_bytes: int = 64 * MIB  # a longer file is left out
    unpacked_bytes: int = 64 * 1024 * MIB
    ratio: float = 200.0  # unpacked over packed bytes
    ratio_from: int = 64 * MIB  # unpacked bytes, as small flat images compress very well


class UploadMeter:
    """Counter of the files and unpacked bytes of an upload, which raises ``DatasetRefused`` beyond its limits."""

    def __init__(self, packed: int, limits: Limits) -> None:
        self.packed = packed
        self.limits = limits
        self.done = 0
        self.files = 0
        self.unpacked = 0
        self.file = ""

    def add_file(self) -> None:
        self.files += 1
        if self.files > self.limits.files:
            raise too_many_files(self.limits.files, self.file)

    def add_bytes(self, count: int) -> None:
        self.unpacked += count
        if self.unpacked > self.limits.unpacked_bytes:
            raise _too_large(f"more than {self.limits.unpacked_bytes} bytes unpacked", self.file)
        if self.unpacked > max(self.limits.ratio_from, self.limits.ratio * self.packed):
            raise _too_large(f"it unpacks to more than {self.limits.ratio:g} times its {self.packed} bytes", self.file)


def too_many_files(most: int, file: str = "") -> DatasetRefused:
    return _too_large(f"more than {most} files", file)


def _too_large(detail: str, file: str) -> DatasetRefused:
    return DatasetRefused("dataset-too-large", "The upload holds too much", f"{file}: {detail}" if file else detail)


class DiskQuota:
    """Largest size of a folder in bytes, which also keeps some free space on its disk."""

    def __init__(self, folder: Path, quota: int | None) -> None:
        self._folder = folder
        self._quota_left = None if quota is None else quota - folder_bytes(folder)
        self._unchecked = 0

    def require(self, count: int) -> None:
        """Raise ``QuotaFull`` or ``StorageFull`` where there is no room for ``count`` more bytes."""
        if self._quota_left is not None and count > self._quota_left:
            raise QuotaFull(f"{count} bytes are needed, {max(0, self._quota_left)} bytes of the quota are left")
        require_room(self._folder, max(1, count))

    def take(self, count: int) -> None:
        """Subtract new bytes from the quota as in :meth:`require`; free space of the disk is checked every 4 MiB."""
        if self._quota_left is not None:
            self._quota_left -= count
        self._unchecked += count
        if self._unchecked >= RECHECK_BYTES or (self._quota_left is not None and self._quota_left < 0):
            self.require(0)
            self._unchecked = 0
