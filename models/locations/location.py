"""Location of a file or folder, as a URL with methods to read, write and list it.

The file or folder is in an object store or on this machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote

from models.locations.disk import DiskFile
from models.locations.entry import FileEntry, LocatedFile
from models.locations.errors import LocationRefused
from models.locations.object_store import StoreFile
from models.locations.range_file import RangeFile

SCHEMES = ("s3", "gs", "az", "file")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<bucket>[^/]*)/?(?P<path>.*)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, order=True)
class Location:
    """URL of a file or folder, with methods to read, write and list it.

    Locations can be pickled and compared.

    The path in ``s3://bucket/path``, ``gs://bucket/path`` and ``az://container/path`` is the name of the object as it
    is: nothing is percent-encoded. ``file:///path`` is a path of this machine, percent-encoded as usual. Credentials
    and endpoint are those of the environment, such as ``AWS_ACCESS_KEY_ID`` and ``AWS_ENDPOINT_URL``.

    All methods raise ``LocationUnavailable`` where the server or disk fails, after retries, and ``LocationRefused``
    where it denies access. Reads raise ``FileUnreadable`` where only this file cannot be read.

    Args:
        url: The URL. A trailing ``/`` makes no difference.

    Raises:
        LocationRefused: The URL is malformed or has a scheme that is not supported.

    >>> Location("s3://lots/2024/").child("line 1/7.png").url
    's3://lots/2024/line 1/7.png'
    """

    url: str
    _root: str | None = field(default=None, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        scheme, bucket, path = _parts(self.url)
        url = _file_url(path) if scheme == "file" else f"{scheme}://{bucket}" + (f"/{path}" if path else "")
        object.__setattr__(self, "url", url)

    @classmethod
    def parse(cls, text: str) -> Location:
        """Convert a URL or a path on this machine, given as text, to a location.

        The path may be absolute or relative.
        """
        if _URL.fullmatch(text):
            return cls(text)
        return cls(_file_url(os.path.abspath(os.path.expanduser(text))))  # noqa: PTH100, PTH111  # keeps links

    @property
    def path(self) -> str:
        """The path within the bucket, or the absolute path of a file on this machine."""
        return _parts(self.url)[2]

    @property
    def scheme(self) -> str:
        """The URL scheme, which tells the kind of storage: ``s3``, ``gs``, ``az`` or ``file``."""
        return _parts(self.url)[0]

    @property
    def bucket(self) -> str:
        """Name of the bucket or container; empty for a file on this machine."""
        return _parts(self.url)[1]

    @property
    def name(self) -> str:
        """The name of the file or folder, which is the last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> Location:
        """The location of the folder that holds this file or folder."""
        folder = self.path.rpartition("/")[0]
        return Location(
            _file_url(folder or "/") if self.scheme == "file" else f"{self.scheme}://{self.bucket}/{folder}"
        )

    @property
    def local_path(self) -> Path | None:
        """The path of the file or folder on this machine; None for one in an object store."""
        return Path(self.path) if self.scheme == "file" else None

    def child(self, name: str) -> Location:
        """Return the location of a file or folder below this folder, by its relative path.

        A file of it is read only if it is in this folder when it is opened, whatever links lead there.

        Args:
            name: Its path relative to this location, with ``/`` between its parts. Any other character is taken as is.

        Raises:
            LocationRefused: The name is absolute, or has a part ``..``, ``.`` or without characters.
        """
        _check(name, self.url)
        if self.scheme == "file":
            return Location(_file_url(os.path.join(self.path, name)), _root=self._root or self.path)  # noqa: PTH118
        return Location(f"{self.scheme}://{self.bucket}/{self.path}/{name}" if self.path else f"{self.url}/{name}")

    def read(self, version: str | None = None) -> bytes:
        """Return the whole content of the file as bytes.

        Args:
            version: The version to read, of :meth:`stat` or :meth:`files`. Default: whatever is there.

        Raises:
            LocationNotFound: There is no such file.
            FileChanged: The file is of another version.
        """
        return self._stored.read(None, version)

    def read_range(self, start: int, stop: int, version: str | None = None) -> bytes:
        """Return the bytes ``start`` to ``stop - 1`` of the file.

        Raises as :meth:`read`.
        """
        return self._stored.read((start, stop), version) if start < stop else b""

    def open(self, version: str | None = None) -> RangeFile:
        """Open the file for reading, as a binary file object that can seek.

        ``pyarrow.parquet`` takes it, for example. Raises as :meth:`read`.

        All that is read is of one version of the file.
        """
        entry = self._stored.entry(version)
        return RangeFile(lambda start, stop: self.read_range(start, stop, entry.version), entry.size)

    def stat(self) -> FileEntry | None:
        """Return the file's name, size in bytes and version identifier, or None if there is no such file.

        The file must have exactly this name.
        """
        return self._stored.stat()

    def exists(self) -> bool:
        """Return whether there is a file of exactly this name.

        A folder does not count.
        """
        return self.stat() is not None

    def write(self, data: bytes | Path) -> None:
        """Write the file atomically and durably, replacing an existing file of this name.

        Args:
            data: Its content, or a file of this machine with the content.
        """
        self._stored.write(data)

    def write_new(self, data: bytes) -> bool:
        """Create the file with the content ``data`` unless it exists; return whether it was created.

        The file is written as by :meth:`write`.

        Of several processes that do so at the same time one writes.
        """
        return self._stored.write_new(data)

    def delete(self) -> None:
        """Delete the file, if there is one."""
        self._stored.delete()

    def files(self) -> Iterator[FileEntry]:
        """Yield an entry (name, size, version) for each file in this folder and its subfolders, sorted by name.

        The order of the files is that of the UTF-8 bytes of their names.

        Each has its path relative to this location. There may be none. An object store has no empty folders.

        Raises:
            LocationNotFound: There is no such folder on this machine, or no such bucket.
        """
        return self._stored.files()

    @property
    def _stored(self) -> LocatedFile:
        scheme, bucket, path = _parts(self.url)
        return (
            DiskFile(self.url, path, self._root)
            if scheme == "file"
            else StoreFile(self.url, f"{scheme}://{bucket}", path)
        )

    def __str__(self) -> str:
        return self.url


def _parts(url: str) -> tuple[str, str, str]:
    """Return scheme, bucket and path of a URL. Raises ``LocationRefused``."""
    match = _URL.fullmatch(url)
    if match is None:
        raise LocationRefused(f"expected a URL such as s3://bucket/folder or file:///folder, got {url[:200]!r}")
    scheme, bucket, path = match["scheme"].lower(), match["bucket"], match["path"].rstrip("/")
    if "@" in bucket or (scheme in SCHEMES and set(bucket) & set(":?")):
        # Not repeated, as it may hold a key.
        raise LocationRefused(
            f"expected a bucket without '@', ':' and '?', as in {SCHEMES[0]}://bucket/folder; keys are "
            "those of the environment"
        )
    if scheme not in SCHEMES:
        raise LocationRefused(f"expected a URL of {', '.join(f'{name}://' for name in SCHEMES)}, got {url[:200]!r}")
    if scheme == "file":
        if bucket not in ("", "localhost"):
            raise LocationRefused(f"expected file:/// with three slashes and an absolute path, got {url[:200]!r}")
        path = unquote(path, errors="surrogateescape")
    elif not bucket:
        raise LocationRefused(f"expected a bucket, as in {scheme}://bucket/folder, got {url[:200]!r}")
    if path:
        _check(path, url)
    return scheme, bucket, f"/{path}" if scheme == "file" else path


def _check(path: str, url: str) -> None:
    parts = path.split("/")
    if ".." in parts or "." in parts or "" in parts:
        raise LocationRefused(f"expected a path without '..', '.' and empty parts, got {path[:200]!a} in {url[:200]!r}")
    if _CONTROL.search(path):
        raise LocationRefused(f"expected a path without control characters, got {path[:200]!a} in {url[:200]!r}")


def _file_url(path: str) -> str:
    return "file://" + quote_from_bytes(os.fsencode(path), safe="/ ~!$&'()*+,;=:@[]")
