"""Objects in a store of the schemes ``s3``, ``gs`` and ``az``, through obstore."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from snf_models.locations.entry import FileEntry
from snf_models.locations.errors import FileChanged, LocationNotFound, LocationRefused
from snf_models.locations.store_errors import AnswerCutOff, setting_error, store_error

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ObjectStore

T = TypeVar("T")
SETTINGS = ("AWS_", "GOOGLE_", "AZURE_", "IDENTITY_", "MSI_")
"""Beginnings of the environment variables that configure the stores."""
NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Environment variables, in capitals or small letters, of the way to the stores."""
LIST_CHUNK = 1000
MAX_RETRIES = 10
RETRY_SECONDS = 30
"""Time after which a failed request is not tried again."""
CONNECT_SECONDS, READ_SECONDS = 5, 15
"""Longest wait for a connection, and for the next bytes of an answer."""
CUT_OFF = 5
"""Answers of one request that may be cut off, one after the other."""
REQUEST_SECONDS = 600
"""Longest time of one request, which a large object takes over a slow line."""


@dataclass(frozen=True)
class StoreFile:
    """An object, or for ``files`` a folder of objects. ``root`` is the URL of the bucket."""

    url: str
    root: str
    key: str

    def read(self, span: tuple[int, int] | None, version: str | None) -> bytes:
        options: GetOptions = {}
        if span is not None:
            options["range"] = span
        if version is not None:
            options["if_match"] = version

        def get() -> tuple[bytes, int]:
            result = self._store.get(self.key, options=options)
            return result.bytes().to_bytes(), result.meta["size"]

        data, size = self._try(get)
        if span is not None and len(data) != span[1] - span[0]:
            raise FileChanged(f"{self.url} has {size} bytes, expected at least {span[1]}")
        return data

    def entry(self, version: str | None) -> FileEntry:
        meta = self._try(lambda: self._store.head(self.key))
        entry = FileEntry(self.key.rpartition("/")[2], meta["size"], _version(meta))
        if version is not None and entry.version != version:
            raise FileChanged(f"{self.url} is not the file that it was: expected version {version}")
        return entry

    def stat(self) -> FileEntry | None:
        if not self.key:
            return None
        try:
            return self.entry(None)
        except LocationNotFound:
            return None

    def write(self, data: bytes | Path) -> None:
        """Write an object; a large one is sent in parts and appears after the last."""
        self._try(lambda: self._store.put(self.key, data))

    def write_new(self, data: bytes) -> bool:
        """Write the object unless it exists. A request repeated after a lost answer may find its own object."""
        from obstore.exceptions import AlreadyExistsError  # noqa: PLC0415  # most processes do without

        def put() -> bool:
            try:
                self._store.put(self.key, data, mode="create")
            except AlreadyExistsError:
                return False
            return True

        return self._try(put)

    def delete(self) -> None:
        with suppress(LocationNotFound):
            self._try(lambda: self._store.delete(self.key))

    def files(self) -> Iterator[FileEntry]:
        """Yield the objects below this path, without the empty ones that consoles make as folders."""
        # obstore gives names without that slash.
        empty: FileEntry | None = None
        last = ""
        for entry in self._listed():
            if empty is not None and entry.name != empty.name and not entry.name.startswith(f"{empty.name}/"):
                yield from self._unless_marker(empty)
            empty = None
            if entry.size:
                yield entry
                last = entry.name
            elif entry.name != last:
                empty = entry
        if empty is not None:
            yield from self._unless_marker(empty)

    def _unless_marker(self, entry: FileEntry) -> Iterator[FileEntry]:
        stored = StoreFile(f"{self.url}/{entry.name}", self.root, self._prefix + entry.name).stat()
        if stored is not None and (stored.size, stored.version) == (entry.size, entry.version):
            yield entry

    def _listed(self) -> Iterator[FileEntry]:
        last: str | None = None
        cuts = 0
        while True:
            try:
                with self._errors():
                    for chunk in self._store.list(self.key or None, offset=last, chunk_size=LIST_CHUNK):
                        for meta in chunk:
                            path = meta["path"]
                            last = path if last is None else max(last, path, key=str.encode)
                            if path != self.key:
                                yield FileEntry(path.removeprefix(self._prefix), meta["size"], _version(meta))
                        cuts = 0
                    return
            except AnswerCutOff:
                cuts += 1
                if cuts > CUT_OFF:
                    raise

    @property
    def _prefix(self) -> str:
        return f"{self.key}/" if self.key else ""

    def _try(self, request: Callable[[], T]) -> T:
        """Return what a request returns. Where its answer is cut off it is repeated: obstore does so for reads only."""
        for _ in range(CUT_OFF):
            try:
                with self._errors():
                    return request()
            except AnswerCutOff:
                continue
        with self._errors():
            return request()

    @property
    def _store(self) -> ObjectStore:
        return _open_store(self.root, tuple(sorted(store_variables().items())))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from obstore.exceptions import BaseError  # noqa: PLC0415  # most processes do without

        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            raise store_error(error, self.url) from error


def store_variables() -> dict[str, str]:
    """Return the environment variables that configure access to object stores."""
    return {name: value for name, value in os.environ.items() if name.startswith(SETTINGS) or name.upper() in NETWORK}


@lru_cache(maxsize=32)
def _open_store(root: str, settings: tuple[tuple[str, str], ...]) -> ObjectStore:
    """Return the store of a bucket. It is kept with its connections for as long as the environment is the same."""
    from obstore.exceptions import BaseError  # noqa: PLC0415  # most processes do without
    from obstore.store import from_url  # noqa: PLC0415

    endpoints = [value for name, value in settings if "ENDPOINT" in name]
    try:
        return from_url(
            root,
            client_options={
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                "read_timeout": timedelta(seconds=READ_SECONDS),
                "timeout": timedelta(seconds=REQUEST_SECONDS),
                # An endpoint that is set with http:// is meant.
                **({"allow_http": True} if any(value.startswith("http://") for value in endpoints) else {}),
            },
            retry_config={
                "max_retries": MAX_RETRIES,
                "retry_timeout": timedelta(seconds=RETRY_SECONDS),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=3),
                    "base": 2,
                },
            },
        )
    except (BaseError, ValueError) as error:
        raise setting_error(error, root) from error


def _version(meta: ObjectMeta) -> str:
    if not meta["e_tag"]:
        raise LocationRefused(f"the server gives no ETag of {meta['path']}, so that changes cannot be noticed")
    return str(meta["e_tag"])
