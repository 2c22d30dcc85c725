"""Items of an upload, and limits on them. Bytes are counted as they pass; sizes in headers are not trusted."""

from __future__ import annotations

import errno
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from snf_client.schemas.datasets import RejectedFile
from snf_models.archives import Readable, UnsafeTar
from snf_models.errors import DatasetRefused
from snf_models.naming import CONTROL
from snf_runtime.images.preprocessing import Pixels

MAX_NAME = 1024
DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class ImageFile:
    """An encoded image file."""

    path: str
    data: bytes


@dataclass(frozen=True)
class ImagePixels:
    """An image of an array, uint8 ``(C, H, W)``; a split keeps images of one group together if possible."""

    path: str
    pixels: Pixels
    group: str | None


@dataclass(frozen=True)
class Rejected:
    path: str
    slug: str
    reason: str


Item = ImageFile | ImagePixels | Rejected | None
"""What is read of an upload; None for a file that is only counted, such as a hidden file or a text."""


LISTED = 100
"""Most rejected files that are listed; all are counted."""


class Findings:
    """Counts of the files that are left out of a new dataset, by reason."""

    def __init__(self) -> None:
        self.files: list[RejectedFile] = []
        self.slugs: Counter[str] = Counter()
        self.ignored = 0

    def reject(self, path: str, slug: str, reason: str) -> None:
        self.slugs[slug] += 1
        if len(self.files) < LISTED:
            self.files.append(RejectedFile(path=path, reason=reason))


TITLES = {
    "unsafe-archive": "The archive is not safe to read",
    "malformed-archive": "The archive is damaged",
    "malformed-array": "The array cannot be used",
    "unsuitable-column": "The column of images is not there",
    "unsupported-archive": "The kind of archive is not supported",
}


def refused(slug: str, detail: str) -> DatasetRefused:
    return DatasetRefused(slug, TITLES[slug], detail)


def safe_path(name: str) -> str:
    """Return the normalised path of an archive member; raise ``DatasetRefused`` for an unsafe one.

    >>> safe_path("./lot 1//seven.png")
    'lot 1/seven.png'
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise refused("unsafe-archive", f"the name {name!a} is not UTF-8") from None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    reason = None
    if len(name) > MAX_NAME:
        reason, name = f"is longer than {MAX_NAME} characters", name[:40] + "..."
    elif CONTROL.search(name):
        reason = "has control characters, or characters that reverse text"
    elif "\\" in name:
        reason = "has a backslash; folders are separated by /"
    elif name.startswith("/"):
        reason = "is absolute"
    elif DRIVE.match(name):
        reason = "begins with a drive letter"
    elif ".." in parts:
        reason = "leads out of its folder by '..'"
    elif not parts:
        reason = "is empty"
    if reason is not None:
        raise refused("unsafe-archive", f"the name {name!a} {reason}")
    return "/".join(parts)


def is_top(name: str) -> bool:
    """Names such as ``./``, which ``tar -c .`` writes, stand for the root of the archive."""
    return not set(name.split("/")) - {"", "."}


MIB = 2**20


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


CHUNK = 2**20
NESTED = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x93NUMPY")


def read_member(path: str, stream: Readable, meter: UploadMeter) -> ImageFile | Rejected:
    """Read a file of an archive, or reject it if it is too large or itself an archive."""
    chunks: list[bytes] = []
    size = 0
    while chunk := stream.read(CHUNK):
        meter.add_bytes(len(chunk))
        size += len(chunk)
        if size <= meter.limits.file_bytes:
            chunks.append(chunk)
        else:
            chunks.clear()
    if size > meter.limits.file_bytes:
        return Rejected(path, "file-too-large", f"{size} bytes, at most {meter.limits.file_bytes} are taken")
    data = b"".join(chunks)
    if data.startswith(NESTED) or data[257:262] == b"ustar":
        return Rejected(path, "nested-archive", "an archive or array inside an archive is not opened")
    return ImageFile(path, data)


@contextmanager
def archive_errors(filename: str) -> Iterator[None]:
    """Translate errors of a damaged archive to ``DatasetRefused``; errors of the disk pass unchanged."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise refused("unsafe-archive", f"{filename}: a name in it is not UTF-8") from error
    except UnsafeTar as error:
        raise refused("unsafe-archive", f"{filename}: {error}") from error
    except (
        zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error,
        EOFError, OSError, ValueError, IndexError, KeyError, NotImplementedError, OverflowError,
    ) as error:  # fmt: skip
        # An impossible seek is a fault of the archive.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise refused("malformed-archive", f"{filename}: {str(error) or type(error).__name__}") from error
