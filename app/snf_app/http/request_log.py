"""Records of requests: metrics, the audit log of changes, and the optional access log."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
import queue
import random
import re
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from snf_app.access.permissions import ALLOWED, address_of, caller_of
from snf_app.http.errors import BODY, ERROR, REQUEST_ID
from snf_app.metrics.registry import ServiceMetrics
from snf_models.errors import ImageError
from snf_worker.settings import Settings

MAX_BYTES = 10_000_000  # size after which a file is renamed to ``<name>.1``, the file of that name to ``.2``, and so on
KEPT = 10
WAITING = 10_000  # most records that wait for the disk; further ones are dropped and counted
BATCH = 1000

Record = dict[str, Any]

log = logging.getLogger(__name__)


class JsonLines:
    """Log file with a JSON object per line, readable by its owner only and rotated at 10 MB by default."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES, kept: int = KEPT) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._kept = kept

    def write(self, records: Iterable[Record]) -> None:
        """Append records after rotating a full file; if it raises ``OSError``, none of them is in the file."""
        # In ASCII: text from outside can hold other line breaks and lone surrogates.
        data = "".join(json.dumps(record, default=str) + "\n" for record in records).encode("ascii")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (self.path.parent / f".{self.path.name}.lock").open("w") as lock:
            # Of two processes only one renames, and none writes into a file that was renamed meanwhile.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._is_full(len(data)):
                self._rename()
            _append(self.path, data)

    def _is_full(self, more: int) -> bool:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return False
        return size > 0 and size + more > self._max_bytes

    def _rename(self) -> None:
        for number in range(self._kept - 1, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            if older.exists():
                older.replace(self.path.with_name(f"{self.path.name}.{number + 1}"))
        self.path.replace(self.path.with_name(f"{self.path.name}.1"))


def _append(path: Path, data: bytes) -> None:
    """Append all of ``data`` to a file, or nothing: records after a part of a line could not be read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(size)
            raise


class BackgroundLog:
    """Thread that writes log records, so that no request waits for the disk or fails because of it."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[JsonLines, Record] | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._lost = 0

    def put(self, file: JsonLines, record: Record) -> None:
        """Queue a record, on the event loop only; beyond 10 000 waiting records it is counted as lost."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="json-lines", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait((file, record))
        except queue.Full:
            self._count_lost(1, file, "the disk is too slow")

    def close(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            by_file: dict[JsonLines, list[Record]] = {}
            for item in batch:
                if item is not None:
                    by_file.setdefault(item[0], []).append(item[1])
            for file, records in by_file.items():
                self._write(file, records)
            if None in batch:
                return

    def _write(self, file: JsonLines, records: list[Record]) -> None:
        try:
            file.write(records)
        except OSError as error:
            self._count_lost(len(records), file, str(error))
            return
        if self._lost:
            log.error("%s can be written again; %d records were lost", file.path, self._lost)
            self._lost = 0

    def _count_lost(self, records: int, file: JsonLines, why: str) -> None:
        if not self._lost:
            log.error("%s cannot be written; requests are still answered: %s", file.path, why)
        self._lost += records


UNMATCHED = "unmatched"
CLIENT_LEFT = 499  # status in metrics and logs of a request whose caller left before the answer began
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def route_template(scope: Scope) -> str:
    """Return the path template of a request's route, such as ``/v1/models/{ref}``; ``unmatched`` if it has none."""
    # Static files are mounted: the scope has no route for them, only the path of the mount.
    mounted = scope.get("root_path", "").removeprefix(scope.get("app_root_path", ""))
    return str(getattr(scope.get("route"), "path", f"{mounted}/..." if mounted else UNMATCHED))


def _measure(scope: Scope, status: int, seconds: float) -> None:
    metrics = scope.get("state", {}).get("metrics")
    if not isinstance(metrics, ServiceMetrics):
        return
    route = route_template(scope)
    method = scope["method"] if scope["method"] in METHODS else "other"
    metrics.requests.labels(route, method, str(status)).inc()
    metrics.latency.labels(route, method).observe(seconds)
    error = scope.get(ERROR)
    # The request's only image failed, so its error is that of the request.
    if isinstance(error, ImageError):
        metrics.image_errors.labels(error.slug).inc()


SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
UNCHANGING = frozenset({"score_images", "oip_infer", "oip_version_infer", "estimate_job", "check_datasets"})
"""Operations that change nothing although they are not GET requests."""
_SOUND_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
REFUSED_RATE = parse("10/minute")
"""Most refused changes of a caller in the audit log, so that a flood of them cannot push out the changes."""
_CREDENTIALS = re.compile(r"://[^/@\s\"]*@")  # user and password of a URL
MAX_LOGGED = 500  # most characters of a value from outside that are logged


def audit_file(settings: Settings) -> JsonLines:
    """Return the audit log of all changes made through the API, ``logs/audit.jsonl``."""
    return JsonLines(settings.logs_dir / "audit.jsonl")


def timestamp() -> str:
    """Return the current UTC time as ISO 8601 text with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def note_body(scope: Scope, body: Any) -> None:
    """Keep the parsed JSON body of a request in its scope for the audit log."""
    scope[BODY] = body


def forget_body(scope: Scope) -> None:
    """Leave the JSON body of a request out of the audit log."""
    scope.pop(BODY, None)


def shortened(text: str) -> str:
    """Return a text, cut after 500 characters and then with ``...`` at its end."""
    return text if len(text) <= MAX_LOGGED else f"{text[:MAX_LOGGED]}..."


def sender_of(scope: Scope) -> Record:
    """Return the log fields that say from where a request came, and what it asked for."""
    return {
        "address": address_of(scope),
        "agent": shortened(Headers(scope=scope).get("user-agent", "")) or None,
        "method": shortened(scope["method"]),
        "path": shortened(scope["path"]),
    }


class RequestLog:
    """Middleware that gives requests an id, measures them, and logs allowed changes, and all requests if enabled."""

    def __init__(self, app: ASGIApp, settings: Settings, writer: BackgroundLog) -> None:
        self._app = app
        self._writer = writer
        self._audit = audit_file(settings)
        self._access = JsonLines(settings.logs_dir / "access.jsonl") if settings.access_log else None
        self._refused = FixedWindowRateLimiter(MemoryStorage())
        self._left_out = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, and queue its log record after the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status, sent, location, answered = 500, 0, None, False
        given = Headers(scope=scope).get("x-request-id", "")
        # Not by uuid4: it asks the operating system, and the scoring thread takes the interpreter meanwhile.
        id = scope[REQUEST_ID] = given if _SOUND_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        # For the rest of this request's task, so that the server's report of an unexpected error has it too.
        bind_contextvars(request_id=id)

        async def recorded(message: Message) -> None:
            nonlocal status, sent, location, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = id
                location = headers.get("location")
                _measure(scope, status, time.perf_counter() - began)
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, recorded)
        except asyncio.CancelledError:
            status = CLIENT_LEFT
            raise
        finally:
            seconds = time.perf_counter() - began
            if not answered:
                _measure(scope, status, seconds)
            milliseconds = round(seconds * 1000, 1)
            if self._access is not None:
                self._writer.put(self._access, _access_record(scope, status, milliseconds, sent))
            if _may_change(scope) and status not in (401, 403):
                self._note_change(scope, status, milliseconds, location)

    def _note_change(self, scope: Scope, status: int, milliseconds: float, location: str | None) -> None:
        # A caller that left may have made its change.
        if HTTPStatus.BAD_REQUEST <= status < CLIENT_LEFT:
            # What is refused may be anything, such as a key as a parameter of the query.
            forget_body(scope)
            scope["query_string"] = b""
            if not self._refused.hit(REFUSED_RATE, caller_of(scope).name):
                self._left_out += 1
                return
        record = _change_record(scope, status, milliseconds, location)
        if self._left_out:
            record["refusals_left_out"], self._left_out = self._left_out, 0
        self._writer.put(self._audit, record)


def _may_change(scope: Scope) -> bool:
    # The scope has a route also where only the path matched, with another method.
    return scope.get(ALLOWED) is True and scope["method"] not in SAFE and scope["route"].operation_id not in UNCHANGING


def _access_record(scope: Scope, status: int, milliseconds: float, sent: int) -> Record:
    caller = caller_of(scope)
    return {
        "time": timestamp(),
        "request_id": scope[REQUEST_ID],
        "caller": caller.name,
        "address": caller.address,
        "method": shortened(scope["method"]),
        "route": route_template(scope),
        "path": shortened(scope["path"]),
        "status": status,
        "ms": milliseconds,
        "bytes": sent,
    }


def _change_record(scope: Scope, status: int, milliseconds: float, location: str | None) -> Record:
    query, caller = dict(QueryParams(scope["query_string"])), caller_of(scope)
    record = {
        "time": timestamp(),
        "request_id": scope[REQUEST_ID],
        "event": "change",
        "caller": caller.name,
        "key": caller.label or None,
        "role": caller.role,
        **sender_of(scope),
        "operation": scope["route"].operation_id,
        "query": _bounded(query) if query else None,
        "body": _bounded(scope.get(BODY)),
        "status": status,
        "location": location,
        "ms": milliseconds,
    }
    return {name: value for name, value in record.items() if value is not None}


def _bounded(value: Any) -> Any:
    text = _CREDENTIALS.sub("://***@", json.dumps(value, default=str))
    return json.loads(text) if len(text) <= MAX_LOGGED * 4 else shortened(text)
