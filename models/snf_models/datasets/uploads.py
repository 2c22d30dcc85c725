"""Reading of uploads one item at a time, within limits: archives, arrays and images, told by their first bytes."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import math
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from snf_client.schemas.datasets import RejectedFile
from snf_models.archives import Readable, TarReader, UnsafeTar
from snf_models.errors import DatasetRefused
from snf_models.naming import CONTROL
from snf_runtime.images.codec import npy_header
from snf_runtime.images.files import MAX_PIXELS, is_no_image
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
    shown = name if len(name) <= MAX_NAME else name[:40] + "..."
    rules = (
        (len(name) > MAX_NAME, f"is longer than {MAX_NAME} characters"),
        (CONTROL.search(name), "has control characters, or characters that reverse text"),
        ("\\" in name, "has a backslash; folders are separated by /"),
        (name.startswith("/"), "is absolute"),
        (DRIVE.match(name), "begins with a drive letter"),
        (".." in parts, "leads out of its folder by '..'"),
        (not parts, "is empty"),
    )
    for is_broken, reason in rules:
        if is_broken:
            raise refused("unsafe-archive", f"the name {shown!a} {reason}")
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


DIRECTORY_BYTES = 128  # most bytes of an entry in the directory of a zip file, on average
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
    with archive_errors(filename), _Bounded(path, meter) as file, zipfile.ZipFile(file) as archive:
        file.is_opened = True
        members: Members = {}
        for info in archive.infolist():
            meter.add_file()
            kind = "file" if stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG) else "other"
            name = _file_name(_name(info), "folder" if info.is_dir() else kind, members, filename)
            if name is None:
                continue
            if info.flag_bits & ENCRYPTED:
                raise refused("unsupported-archive", f"{filename}: {name} is encrypted")
            if info.compress_type not in METHODS:
                raise refused("unsupported-archive", f"{filename}: {name} is neither stored nor deflated")
            members[name] = info
        yield archive, members


def _file_name(given: str, kind: str, known: Collection[str], filename: str) -> str | None:
    """Return the safe path of a file in an archive, None for a folder; refuse links, devices and known names."""
    if kind == "folder" and is_top(given):
        return None
    name = safe_path(given)
    if kind == "folder":
        return None
    if kind != "file":
        raise refused("unsafe-archive", f"{filename}: {name} is a link or a device, not a plain file")
    if name in known:
        raise refused("malformed-archive", f"{filename}: {name} is there twice")
    return name


def zip_files(archive: zipfile.ZipFile, members: Members, meter: UploadMeter, within: str) -> Iterator[Item]:
    for name, info in members.items():
        if is_no_image(name):
            yield None
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


IMAGES = ("images", "x_train", "x")  # names of the array of images in an .npz with several arrays
GROUP = "group"
MAX_GROUP_BYTES = 256 * 2**20
MAX_GROUP_ITEM = 4 * MAX_NAME  # most bytes of a group: NumPy stores a character in 4
LAST = 0x10FFFF


def read_npy_file(path: Path, filename: str, meter: UploadMeter, within: str) -> Iterator[Item]:
    """Yield images; raise ``DatasetRefused`` if the file is no uint8 array of images."""
    with archive_errors(filename), path.open("rb") as file:
        yield from _images(file, filename, within + "images", meter, None)


def npz_images(
    archive: zipfile.ZipFile, members: Members, filename: str, meter: UploadMeter, within: str
) -> Iterator[Item]:
    """Yield images, with groups of the array ``group``, ``(N,)`` of texts or whole numbers, if there is one."""
    arrays = {name.removesuffix(".npy"): info for name, info in members.items()}
    others = [name for name in arrays if name != GROUP]
    chosen = next((name for name in IMAGES if name in arrays), others[0] if len(others) == 1 else None)
    if chosen is None:
        raise _unusable(f"{filename} holds {', '.join(others) or 'nothing'}; the images are expected in 'images'")
    groups = None
    if GROUP in arrays:
        with archive.open(arrays[GROUP]) as stream:
            groups = _groups(stream, filename, meter)
    with archive.open(arrays[chosen]) as stream:
        yield from _images(stream, f"{filename}: {chosen}", within + chosen, meter, groups)


def _images(
    file: IO[bytes], label: str, within: str, meter: UploadMeter, groups: NDArray[Any] | None
) -> Iterator[ImagePixels]:
    shape, fortran_order, dtype = _header(file, label)
    if dtype != np.uint8:
        raise _unusable(f"{label}: expected uint8, got {dtype}")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise _unusable(f"{label}: expected (N, H, W) or (N, H, W, 1 or 3), got {shape}")
    count, height, width = shape[:3]
    if min(shape) < 1 or max(height, width) > 4096 or height * width > MAX_PIXELS:
        raise _unusable(f"{label}: expected images with sides of 1 to 4096, got {shape}")
    if fortran_order and count > 1:
        raise _unusable(f"{label}: expected C order, got Fortran order; save numpy.ascontiguousarray of it")
    if groups is not None and groups.shape != (count,):
        raise _unusable(f"{label}: expected a group for each of {count} images, got {len(groups)}")
    size, digits = math.prod(shape[1:]), len(str(count - 1))
    for index in range(count):
        meter.add_file()
        data = _read_counted(file, size, meter)
        if len(data) < size:
            raise _unusable(f"{label}: the header promises {count} images, the data end in number {index}")
        order = "F" if fortran_order else "C"
        pixels = np.frombuffer(data, np.uint8).reshape((height, width, -1), order=order)  # type: ignore[call-overload]
        group = None if groups is None else safe_path(str(groups[index]))
        yield ImagePixels(f"{within}/{index:0{digits}d}", pixels.transpose(2, 0, 1), group)
    if file.read(1):
        raise _unusable(f"{label}: the file goes on after the {count} images that its header promises")


def _groups(file: IO[bytes], filename: str, meter: UploadMeter) -> NDArray[Any]:
    label = f"{filename}: {GROUP}"
    shape, _, dtype = _header(file, label)
    if dtype.kind not in "Uiu" or len(shape) != 1:
        raise _unusable(f"{label}: expected text or whole numbers (N,), got {dtype} {shape}")
    if not 1 <= dtype.itemsize <= MAX_GROUP_ITEM:
        raise _unusable(f"{label}: expected groups of 1 to {MAX_NAME} characters, got {dtype}")
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_GROUP_BYTES:
        raise _unusable(f"{label}: {size} bytes, at most {MAX_GROUP_BYTES} are read")
    data = _read_counted(file, size, meter)
    if len(data) < size:
        raise _unusable(f"{label}: the header promises {size} bytes, {len(data)} are there")
    # NumPy accepts any 32 bits as a character, and Python does not check them.
    if dtype.kind == "U" and np.frombuffer(data, np.dtype("u4").newbyteorder(dtype.byteorder)).max(initial=0) > LAST:
        raise _unusable(f"{label}: its text holds numbers that are not characters")
    return np.frombuffer(data, dtype)


def _read_counted(file: IO[bytes], size: int, meter: UploadMeter) -> bytearray:
    """Every piece is counted before the next is read."""
    data = bytearray()
    while piece := file.read(min(CHUNK, size - len(data))):
        meter.add_bytes(len(piece))
        data += piece
    return data


def _header(file: IO[bytes], label: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        header = npy_header(file)
    except (ValueError, EOFError) as error:
        raise _unusable(f"{label} is not an array: {error}") from error
    if header[2].hasobject:
        raise _unusable(f"{label}: objects are never unpickled, expected uint8")
    return header


def _unusable(detail: str) -> DatasetRefused:
    return refused("malformed-array", detail)


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
            name = _file_name(entry.name, entry.kind, names, filename)
            if name is None:
                continue
            names.add(name)
            item = read_member(within + name, entry, meter)
            yield None if is_no_image(name) else item
            meter.done = start + file.tell()


def _unpacked(file: IO[bytes]) -> Readable:
    start = file.read(6)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file)
    return _Xz(file) if start == XZ else file


MAGIC = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x93NUMPY": "npy",
    b"\x1f\x8b": "tar",
    b"BZh": "tar",
    b"\xfd7zXZ\x00": "tar",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "RAR",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}
IMAGE = "image"


@dataclass(frozen=True)
class Source:
    """An uploaded file; ``filename`` is as it was sent, and never used as a path."""

    path: Path
    filename: str


def read_sources(sources: Sequence[Source], meter: UploadMeter) -> Iterator[Item]:
    kinds = [_kind(source.path) for source in sources]
    labels = [ascii(PurePosixPath(source.filename).name)[1:-1] for source in sources]
    archives = [(label, kind) for label, kind in zip(labels, kinds, strict=True) if kind != IMAGE]
    # Archives may have files of the same name: where there are several, each has a folder.
    folders = iter(_folders(archives) if len(archives) > 1 else [""])
    before = 0
    for source, label, kind in zip(sources, labels, kinds, strict=True):
        meter.file = label or kind
        if kind == IMAGE:
            yield _image(source, meter)
        elif kind in READERS:
            yield from READERS[kind](source.path, label or kind, meter, next(folders))
        else:
            detail = f"{label or kind} is a {kind} archive, expected zip, tar, npz or npy"
            raise refused("unsupported-archive", detail)
        before += source.path.stat().st_size
        meter.done = before


def _folders(archives: Sequence[tuple[str, str]]) -> list[str]:
    """Return a different folder name with a ``/`` for each archive of ``(name, kind)``, as short as can be.

    >>> _folders([("lot.01.zip", "zip"), ("lot.02.zip", "zip"), ("b.zip", "zip"), ("b.zip", "zip"), ("c.tar", "tar")])
    ['lot.01.zip/', 'lot.02.zip/', 'b.zip-3/', 'b.zip-4/', 'c/']
    """
    # A folder must not be named "..", and its name should not begin with a dot.
    names = [f"{kind}{label}" if not label or label.startswith(".") else label for label, kind in archives]
    forms = [(name.split(".")[0], name, f"{name}-{number}") for number, name in enumerate(names, 1)]
    uses = Counter(form for three in forms for form in set(three))
    return [next((form for form in three if uses[form] == 1), three[-1]) + "/" for three in forms]


def _read_zip(path: Path, filename: str, meter: UploadMeter, within: str) -> Iterator[Item]:
    """Read a zip archive, or an .npz if all its members are arrays."""
    with open_zip(path, filename, meter) as (archive, members):
        if members and all(name.endswith(".npy") for name in members):
            yield from npz_images(archive, members, filename, meter, within)
        else:
            yield from zip_files(archive, members, meter, within)


READERS = {"zip": _read_zip, "npy": read_npy_file, "tar": read_tar}


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(512)
    if start[257:262] == b"ustar":
        return "tar"
    return next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), IMAGE)


def _image(source: Source, meter: UploadMeter) -> Item:
    meter.add_file()
    try:
        path = safe_path(source.filename)
    except DatasetRefused as error:
        return Rejected(ascii(source.filename)[1:80], "unsafe-name", error.detail)
    if is_no_image(path):
        return None
    with source.path.open("rb") as file:
        return read_member(path, file, meter)
