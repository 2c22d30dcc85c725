"""Objects in a store of the schemes ``s3``, ``gs`` and ``az``, through obstore."""

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

from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from snf_models.errors import (
    FileChanged,
    FileUnreadable,
    LocationNotFound,
    LocationRefused,
    LocationUnavailable,
    ModelsError,
)
from snf_models.locations.disk import FileEntry

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ObjectStore

KEYS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "set GOOGLE_SERVICE_ACCOUNT_PATH to the file of a key",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
"""What gives a process keys, by scheme."""
METADATA = ("169.254.", "fd00:ec2::", "metadata.google.internal")
"""Beginnings of the addresses where a cloud has the keys of a machine: they are asked where none are set."""
WRONG_REGION = ("BareRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint", "PermanentRedirect")
ARCHIVED = ("InvalidObjectState", "BlobArchived")  # codes of objects that must be restored before they can be read
BAD_KEYS = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
PASSING = ("408", "409", "429")  # statuses of 400 to 499 that another attempt may not give


class AnswerCutOff(LocationUnavailable):
    """The answer of a server is lost or ends too early; the request is repeated."""


def store_error(error: Exception, url: str) -> ModelsError:
    """Translate an exception. The text has no address but the URL, so that it may be shown to callers."""
    text = str(error)
    # Where the answer to the last request of an upload in parts is lost, obstore aborts the upload, which has ended.
    has_ended = "NoSuchUpload" in text
    if not has_ended and (isinstance(error, FileNotFoundError) or "NoSuchBucket" in text):
        reason = ": the bucket does not exist" if "NoSuchBucket" in text else ""
        return LocationNotFound(f"there is nothing at {url}{reason}")
    if isinstance(error, PreconditionError):
        return FileChanged(f"{url} is not the file that it was")
    if (path := re.search(r'invalid path: Path "(.*)" (contained|could not)', text)) is not None:
        detail = f"expected names without '//', '.' and '..' between slashes, got {path[1][:200]!a}"
        return LocationRefused(f"{url} cannot be used: {detail}")
    if any(code in text for code in ARCHIVED):
        return FileUnreadable(f"{url} cannot be read: it is archived, and must be restored first")
    if not has_ended and (lasting := _lasting(text, url.partition("://")[0])) is not None:
        return LocationRefused(f"{url} cannot be used: {lasting}")
    # obstore does not repeat a request that was sent when the server closed the connection.
    is_dropped = "error sending request" in text and "retries" not in text
    kind = AnswerCutOff if has_ended or is_dropped or "body error" in text else LocationUnavailable
    return kind(f"{url} cannot be used: {_reason(text)}")


def _lasting(text: str, scheme: str) -> str | None:
    """Return a sentence for an error that every further attempt would give; None for another."""
    status = _status(text)
    code = status[:3] if status else ""
    if any(address in text.partition("\n")[0] for address in METADATA):
        return f"no keys were found: {KEYS[scheme]}"
    if any(sign in text for sign in WRONG_REGION) or (scheme == "s3" and code == "301"):
        return "it is in another region: set AWS_REGION to the region of the bucket"
    if any(sign in text for sign in BAD_KEYS) or code in ("401", "403"):
        return f"{_reason(text)}; check the keys in the environment"
    if code.startswith("4") and code not in PASSING and "RequestTimeout" not in text:
        hint = "; check AWS_REGION" if scheme == "s3" and code == "400" and "<Message>" not in text else ""
        return f"{_reason(text)}{hint}"
    return None


def _status(text: str) -> str | None:
    match = re.search(r"status code: (\d{3}[A-Za-z ]*)", text)
    return None if match is None else match[1].strip()


def _reason(text: str) -> str:
    """Return a sentence from an error of obstore, whose text goes on with the server's answer and its own data."""
    if message := re.search(r"<Message>(.*?)</Message>", text, re.DOTALL):
        return f"the server answered {message[1].strip().rstrip('.')!r}"
    if status := _status(text):
        return f"the server answered {status}"
    if kind := re.search(r"kind: (Connect|Timeout)", text):
        return (
            "no connection to the server can be made" if kind[1] == "Connect" else "the server gave no answer in time"
        )
    if "body error" in text:
        return "the answer of the server ends too early"
    return re.sub(r"https?://\S+", "the server", text.partition("\n")[0]).strip()


T = TypeVar("T")
SETTINGS = ("AWS_", "GOOGLE_", "AZURE_", "IDENTITY_", "MSI_")
"""Beginnings of the environment variables that configure the stores."""
NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Environment variables, in capitals or small letters, of the way to the stores."""
LIST_CHUNK = 1000
MAX_RETRIES = 10
RETRY_SECONDS = 30  # time after which a failed request is not tried again
CONNECT_SECONDS, READ_SECONDS = 5, 15  # longest wait for a connection, and for the next bytes of an answer
CUT_OFF = 5  # answers of one request that may be cut off, one after the other
REQUEST_SECONDS = 600  # longest time of one request, which a large object takes over a slow line


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
        if not self.key:
            raise LocationNotFound(f"expected a file at {self.url}, got a bucket")
        meta = self._try(lambda: self._store.head(self.key))
        entry = FileEntry(self.key.rpartition("/")[2], meta["size"], _version(meta))
        if version is not None and entry.version != version:
            raise FileChanged(f"{self.url} is not the file that it was: expected version {version}")
        return entry

    def write(self, data: bytes | Path) -> None:
        self._try(lambda: self._store.put(self.key, data))

    def write_new(self, data: bytes) -> bool:
        """Write the object unless it exists. A request repeated after a lost answer may find its own object."""

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
        with suppress(LocationNotFound):
            stored = StoreFile(f"{self.url}/{entry.name}", self.root, self._prefix + entry.name).entry(None)
            if (stored.size, stored.version) == (entry.size, entry.version):
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
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            raise store_error(error, self.url) from error


def store_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(SETTINGS) or name.upper() in NETWORK}


@lru_cache(maxsize=32)
def _open_store(root: str, settings: tuple[tuple[str, str], ...]) -> ObjectStore:
    """Return the store of a bucket. It is kept with its connections for as long as the environment is the same."""
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
        reason = KEYS["az"] if "Account must be specified" in str(error) else _reason(str(error))
        raise LocationRefused(f"{root} cannot be used: {reason}") from error


def _version(meta: ObjectMeta) -> str:
    if not meta["e_tag"]:
        raise LocationRefused(f"the server gives no ETag of {meta['path']}, so that changes cannot be noticed")
    return str(meta["e_tag"])
