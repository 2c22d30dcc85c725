"""URLs of files and folders, and which of them a request may name."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote

from snf_models.errors import LocationNotFound, LocationRefused
from snf_models.locations.disk import DiskFile, FileEntry
from snf_models.locations.object_store import StoreFile


class RangeFile(io.RawIOBase):
    """Seekable binary file that gets bytes ``start`` to ``stop - 1`` by a call of ``read``, without a buffer."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._read = read
        self.size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if position < 0:
            raise ValueError(f"expected a position of at least 0, got {position}")
        self._position = position
        return position

    def read(self, size: int | None = -1, /) -> bytes:
        stop = self.size if size is None or size < 0 else min(self._position + size, self.size)
        if stop <= self._position:
            return b""
        data = self._read(self._position, stop)
        self._position = stop
        return data


SCHEMES = ("s3", "gs", "az", "file")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<bucket>[^/]*)/?(?P<path>.*)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, order=True)
class Location:
    """URL of a file or folder; only ``file`` URLs are percent-encoded. Failing servers raise ``LocationUnavailable``.

    >>> Location("s3://lots/2024/").child("line 1/7.png").url
    's3://lots/2024/line 1/7.png'
    """

    url: str
    _root: str | None = field(default=None, repr=False, compare=False, kw_only=True)
    scheme: str = field(init=False, repr=False, compare=False)
    bucket: str = field(init=False, repr=False, compare=False)  # or container; empty for a file on this machine
    path: str = field(init=False, repr=False, compare=False)  # in the bucket, or absolute on this machine

    def __post_init__(self) -> None:
        scheme, bucket, path = _parts(self.url)
        url = _file_url(path) if scheme == "file" else f"{scheme}://{bucket}" + (f"/{path}" if path else "")
        for name, value in (("url", url), ("scheme", scheme), ("bucket", bucket), ("path", path)):
            object.__setattr__(self, name, value)

    @classmethod
    def parse(cls, text: str) -> Location:
        if _URL.fullmatch(text):
            return cls(text)
        return cls(_file_url(os.path.abspath(os.path.expanduser(text))))  # noqa: PTH100, PTH111  # keeps links

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> Location:
        folder = self.path.rpartition("/")[0]
        local = self.scheme == "file"
        return Location(_file_url(folder or "/") if local else f"{self.scheme}://{self.bucket}/{folder}")

    @property
    def local_path(self) -> Path | None:
        """None for an object store."""
        return Path(self.path) if self.scheme == "file" else None

    def child(self, name: str) -> Location:
        """Return a location below this folder, out of which no link may lead; raise ``LocationRefused`` for ``..``."""
        _check(name, self.url)
        if self.scheme == "file":
            return Location(_file_url(os.path.join(self.path, name)), _root=self._root or self.path)  # noqa: PTH118
        return Location(f"{self.scheme}://{self.bucket}/{self.path}/{name}" if self.path else f"{self.url}/{name}")

    def read(self, version: str | None = None) -> bytes:
        """Return the content; raise ``LocationNotFound``, or ``FileChanged`` for another ``version``."""
        return self._stored.read(None, version)

    def read_range(self, start: int, stop: int, version: str | None = None) -> bytes:
        """Return the bytes ``start`` to ``stop - 1``; raise as :meth:`read`."""
        return self._stored.read((start, stop), version) if start < stop else b""

    def open(self, version: str | None = None) -> RangeFile:
        """Open one version of the file for reading and seeking; raise as :meth:`read`."""
        entry = self._stored.entry(version)
        return RangeFile(lambda start, stop: self.read_range(start, stop, entry.version), entry.size)

    def stat(self) -> FileEntry | None:
        """Return None if there is no file of exactly this name."""
        try:
            return self._stored.entry(None)
        except LocationNotFound:
            return None

    def exists(self) -> bool:
        """Return whether there is a file of exactly this name; a folder does not count."""
        return self.stat() is not None

    def write(self, data: bytes | Path) -> None:
        self._stored.write(data)

    def write_new(self, data: bytes) -> bool:
        return self._stored.write_new(data)

    def delete(self) -> None:
        self._stored.delete()

    def files(self) -> Iterator[FileEntry]:
        """Yield all files below this folder by the UTF-8 bytes of their names; raise ``LocationNotFound``."""
        return self._stored.files()

    @property
    def _stored(self) -> DiskFile | StoreFile:
        if self.scheme == "file":
            return DiskFile(self.url, self.path, self._root)
        return StoreFile(self.url, f"{self.scheme}://{self.bucket}", self.path)

    def __str__(self) -> str:
        return self.url


def _parts(url: str) -> tuple[str, str, str]:
    """Return scheme, bucket and path; raise ``LocationRefused``."""
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


SETTING = "SNF_ALLOWED_LOCATIONS"


def allowed_location(url: str, prefixes: Sequence[str], home: Path) -> Location:
    """Return the location of a URL below one of ``prefixes`` and outside ``home``; raise ``LocationRefused``."""
    location = Location(url)
    if not prefixes:
        raise LocationRefused(
            f"{location} may not be named over HTTP: expected a location below one of {SETTING}, which is not set"
        )
    place = _resolved(location)
    if not any(_is_within(place, _resolved(Location(prefix))) for prefix in prefixes):
        raise LocationRefused(
            f"{location} may not be named over HTTP: expected a location below one of {SETTING}: {', '.join(prefixes)}"
        )
    own = _resolved(Location.parse(str(home)))
    if _is_within(place, own) or _is_within(own, place):
        raise LocationRefused(f"{location} may not be named over HTTP: expected a folder apart from SNF_HOME")
    return place


def _resolved(location: Location) -> Location:
    return Location.parse(os.path.realpath(location.path)) if location.scheme == "file" else location


def _is_within(place: Location, folder: Location) -> bool:
    if (place.scheme, place.bucket) != (folder.scheme, folder.bucket):
        return False
    path = folder.path.rstrip("/")
    return not path or place.path == path or place.path.startswith(f"{path}/")
