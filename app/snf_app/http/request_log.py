"""The audit log of changes, and the optional access log of all requests."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from snf_app.access.callers import caller_of
from snf_app.access.permissions import ALLOWED
from snf_app.http.errors import REQUEST_ID
from snf_app.http.json_log import BackgroundLog, JsonLines, Record
from snf_app.metrics.middleware import CLIENT_LEFT, route_template
from snf_worker.settings import Settings

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
UNCHANGING = frozenset({"score_images", "oip_infer", "oip_version_infer", "estimate_job", "check_datasets"})
"""Operations that change nothing although they are not GET requests."""
BODY = "snf.body"
"""Key of a request's scope that holds its parsed JSON body."""
_SOUND_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
REFUSED_RATE = parse("10/minute")
"""Most refused changes of a caller in the audit log, so that a flood of them cannot push out the changes."""
_CREDENTIALS = re.compile(r"://[^/@\s\"]*@")
"""User and password of a URL."""
MAX_LOGGED = 500
"""Most characters of a value from outside that are logged."""


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


def origin_of(scope: Scope) -> Record:
    """Return the log fields that identify the sender of a request."""
    caller = caller_of(scope)
    return {
        "caller": caller.name,
        "key": caller.label or None,
        "role": caller.role,
        "address": caller.address,
        "agent": shortened(Headers(scope=scope).get("user-agent", "")) or None,
    }


class RequestLog:
    """Middleware that gives requests an id, and logs changes that the caller's role allows, and all if enabled."""

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
        status, sent, location = 500, 0, None
        given = Headers(scope=scope).get("x-request-id", "")
        id = scope[REQUEST_ID] = given if _SOUND_ID.fullmatch(given) else uuid.uuid4().hex
        # For the rest of this request's task, so that the server's report of an unexpected error has it too.
        bind_contextvars(request_id=id)

        async def noted(message: Message) -> None:
            nonlocal status, sent, location
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = id
                location = headers.get("location")
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:
            status = CLIENT_LEFT
            raise
        finally:
            milliseconds = round((time.perf_counter() - began) * 1000, 1)
            if self._access is not None:
                self._writer.put(self._access, _access_record(scope, status, milliseconds, sent))
            if _may_change(scope) and status not in (401, 403):
                self._note_change(scope, status, milliseconds, location)

    def _note_change(self, scope: Scope, status: int, milliseconds: float, location: str | None) -> None:
        # A caller that left may have made its change.
        if HTTPStatus.BAD_REQUEST <= status < CLIENT_LEFT:
            forget_body(scope)
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
    query = dict(QueryParams(scope["query_string"]))
    record = {
        "time": timestamp(),
        "request_id": scope[REQUEST_ID],
        "event": "change",
        **origin_of(scope),
        "operation": scope["route"].operation_id,
        "method": scope["method"],
        "path": shortened(scope["path"]),
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
