"""Objects in a store such as S3 as a location, through obstore."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from models.locations.entry import FileEntry
from models.locations.errors import FileChanged, LocationNotFound, LocationRefused, LocationUnavailable

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

T = TypeVar("T")
SETTINGS = ("AWS_", "GOOGLE_", "AZURE_")
"""Beginnings of the environment variables that configure the stores."""
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


class AnswerCutOff(LocationUnavailable):
    """Raised where the answer of a server ends too early."""


@dataclass(frozen=True)
class StoreFile:
    """An object, or all objects below a prefix; ``root`` is the URL of the bucket and ``url`` names it in errors."""

    url: str
    root: str
    key: str

    def read(self, span: tuple[int, int] | None, version: str | None) -> bytes:
        """Return a range of bytes, or all. Raises ``LocationNotFound``, ``FileChanged``, ``LocationUnavailable``."""
        options: dict[str, object] = {}
        if span is not None:
            options["range"] = span
        if version is not None:
            options["if_match"] = version

        def get() -> tuple[bytes, int]:
            result = self._store.get(self.key, options=options)  # type: ignore[arg-type]
            return result.bytes().to_bytes(), result.meta["size"]

        data, size = self._try(get)
        if span is not None and len(data) != span[1] - span[0]:
            raise FileChanged(f"{self.url} has {size} bytes, expected at least {span[1]}")
        return data

    def entry(self, version: str | None) -> FileEntry:
        """Return name, size and version. Raises ``LocationNotFound``, and ``FileChanged`` for another version."""
        meta = self._try(lambda: self._store.head(self.key))
        found = FileEntry(self.key.rpartition("/")[2], meta["size"], _version(meta))
        if version is not None and found.version != version:
            raise FileChanged(f"{self.url} is not the file that it was: expected version {version}")
        return found

    def stat(self) -> FileEntry | None:
        """Return name, size and version of the object; None if there is none."""
        if not self.key:
            return None
        try:
            return self.entry(None)
        except LocationNotFound:
            return None

    def write(self, data: bytes | Path) -> None:
        """Write the object. A large one is sent in parts, and appears after the last."""
        self._try(lambda: self._store.put(self.key, data))

    def write_new(self, data: bytes) -> bool:
        """Write the object, unless there is one; return whether it was written. One of several writers does so.

        After an answer that was cut off, the repeated request may find the object that the first one wrote.
        """
        from obstore.exceptions import AlreadyExistsError  # noqa: PLC0415  # most processes do without

        def put() -> bool:
            try:
                self._store.put(self.key, data, mode="create")
            except AlreadyExistsError:
                return False
            return True

        return self._try(put)

    def delete(self) -> None:
        """Delete the object, if there is one."""
        with suppress(LocationNotFound):
            self._try(lambda: self._store.delete(self.key))

    def files(self) -> Iterator[FileEntry]:
        """Yield the objects below the key, in the order of the store: by the UTF-8 bytes of their names."""
        prefix = f"{self.key}/" if self.key else ""
        last: str | None = None
        cuts = 0
        while True:
            try:
                with self._errors():
                    for chunk in self._store.list(self.key or None, offset=last, chunk_size=LIST_CHUNK):
                        for meta in chunk:
                            last = meta["path"]
                            yield FileEntry(last.removeprefix(prefix), meta["size"], _version(meta))
                        cuts = 0
                    return
            except AnswerCutOff:
                cuts += 1
                if cuts > CUT_OFF:
                    raise

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
        from obstore.exceptions import BaseError, PreconditionError  # noqa: PLC0415  # most processes do without

        try:
            yield
        except FileNotFoundError as error:
            reason = ": the bucket does not exist" if "NoSuchBucket" in str(error) else ""
            raise LocationNotFound(f"there is nothing at {self.url}{reason}") from error
        except PreconditionError as error:
            raise FileChanged(f"{self.url} is not the file that it was") from error
        except (BaseError, OSError, ValueError) as error:
            if "NoSuchBucket" in str(error):  # of a listing
                raise LocationNotFound(f"there is nothing at {self.url}: the bucket does not exist") from error
            text = str(error)
            # obstore does not repeat a request that was sent when the server closed the connection.
            is_dropped = "error sending request" in text and "retries" not in text
            kind = AnswerCutOff if is_dropped or "body error" in text else LocationUnavailable
            raise kind(f"{self.url} cannot be used: {_reason(text)}") from error


def store_variables() -> dict[str, str]:
    """Return the environment variables that configure the stores: endpoints, regions and keys."""
    return {name: value for name, value in os.environ.items() if name.startswith(SETTINGS)}


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
        raise LocationRefused(f"{root} cannot be used: {_reason(str(error))}") from error


def _version(meta: ObjectMeta) -> str:
    if not meta["e_tag"]:
        raise LocationUnavailable(f"the server gives no ETag of {meta['path']}, so that changes cannot be noticed")
    return str(meta["e_tag"])


def _reason(text: str) -> str:
    """Return a sentence from an error of obstore, whose text goes on with the server's answer and its own data."""
    message = re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
    status = re.search(r"status code: (\d{3}[A-Za-z ]*)", text)
    hint = "; check the keys in the environment" if status and status[1][:3] in ("401", "403") else ""
    if message:
        return f"the server answered {message[1].strip().rstrip('.')!r}{hint}"
    if status:
        return f"the server answered {status[1].strip()}{hint}"
    if kind := re.search(r"kind: (Connect|Timeout)", text):
        return (
            "no connection to the server can be made" if kind[1] == "Connect" else "the server gave no answer in time"
        )
    if "body error" in text:
        return "the answer of the server ends too early"
    return text.partition("\n")[0].strip()
