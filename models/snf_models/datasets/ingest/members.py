from __future__ import annotations

import errno
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from snf_models.archives.tar import Readable, UnsafeTar
from snf_models.datasets.ingest.items import ImageFile, Rejected, refused
from snf_models.datasets.ingest.limits import UploadMeter

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
        if isinstance(error, OSError) and error.errno not in (
            None,
            errno.EINVAL,
        ):
            raise
        raise refused("malformed-archive", f"{filename}: {str(error) or type(error).__name__}") from error
