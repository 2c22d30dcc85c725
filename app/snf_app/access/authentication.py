"""Authentication by API keys in the headers ``Authorization: Bearer`` or ``X-API-Key``."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from snf_app.access.callers import SCOPE, Caller, address_of, keyless, network_of
from snf_app.access.failed_attempts import Attempts, FailedAttempts
from snf_app.access.key_ring import HeldKey, KeyRefused, KeyRing, Refusal
from snf_app.access.rate_limits import ALLOWANCE, Allowance, RateLimits, with_headers
from snf_app.http.errors import Problem, problem_response
from snf_app.http.json_log import BackgroundLog
from snf_app.http.request_log import audit_file, shortened, timestamp
from snf_app.metrics.registry import ServiceMetrics
from snf_worker.keys.key_file import KeysUnreadable, digest_of
from snf_worker.settings import Settings

READINESS = "/readyz"
HEALTH_PATHS = frozenset({"/healthz", READINESS, "/v2/health/live", "/v2/health/ready"})
OPEN_PATHS = HEALTH_PATHS | {"/", "/docs", "/openapi.json"}
OPEN_FOLDERS = ("/console/", "/docs/files/", "/guide/")
"""Paths that need no key: health checks, and pages that contain no data."""

OPEN_RATE = parse("2000/10 seconds")
"""Most requests of an address to paths that need no key, health checks by themselves. The console has 110 files."""
REFUSAL_RATE = parse("100/10 seconds")
"""Most refusals of an address that are answered at once."""
PAUSE_S = 1.0
"""Seconds after which others are answered, so that clients that ask again at once take no time of the others."""
REPORTS = parse("10/minute")
"""Most reports of wrong keys in the audit log, so that a flood of them cannot push out the records of changes."""

TEXTS: dict[Refusal, str] = {
    "missing": "a key is needed and none was given; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
    "unknown": "the key is not known",
    "expired": "the key has expired",
    "revoked": "the key was revoked",
}

log = logging.getLogger(__name__)


class Authentication:
    """Middleware that stores the ``Caller`` or answers 401 before the body is read, once there are keys."""

    def __init__(self, app: ASGIApp, keys: KeyRing, settings: Settings, writer: BackgroundLog) -> None:
        self._app = app
        self._keys = keys
        self._attempts = FailedAttempts()
        self._limits = RateLimits()
        self._windows = FixedWindowRateLimiter(MemoryStorage())
        self._writer = writer
        self._audit = audit_file(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application if its key is valid; otherwise answer with 401, 429 or 503."""
        if scope["type"] == "http":
            try:
                if is_open(scope["path"]):
                    self._take_open(scope)
                    if scope["path"] == READINESS and (given_key(scope) or not self._keys.needed):
                        with suppress(Problem):  # a wrong key gets what no key gets
                            self._identify(scope)
                else:
                    self._admit(scope)
            except Problem as problem:
                if not self._windows.hit(REFUSAL_RATE, "refusals", network_of(address_of(scope))):
                    await asyncio.sleep(PAUSE_S)
                await problem_response(problem, scope["path"])(scope, receive, with_headers(scope, send))
                return
        await self._app(scope, receive, with_headers(scope, send))

    def _take_open(self, scope: Scope) -> None:
        kind = "health" if scope["path"] in HEALTH_PATHS else "pages"
        if not self._windows.hit(OPEN_RATE, kind, network_of(address_of(scope))):
            detail = f"an address gets {OPEN_RATE.amount} answers without a key in {OPEN_RATE.get_expiry()} s; wait"
            raise Problem(429, "too-many-requests", "Too Many Requests", detail, headers={"Retry-After": "10"})

    def _identify(self, scope: Scope) -> HeldKey | None:
        """Store the caller, and return the key, or None where the service has no keys."""
        address = address_of(scope)
        key = self._key(scope, address) if self._keys.needed else None
        scope[SCOPE] = keyless(address) if key is None else Caller(f"key:{key.id}", address, key.role, key.name)
        return key

    def _admit(self, scope: Scope) -> None:
        key = self._identify(scope)
        if key is not None:
            allowance = scope[ALLOWANCE] = Allowance(key, self._limits)
            allowance.take_request()

    def _key(self, scope: Scope, address: str) -> HeldKey:
        text = given_key(scope)
        digest = digest_of(text or "")
        wait = self._attempts.wait_s(address, digest) if text else 0.0
        # Others may share the address, so a key with a known id, which cannot be guessed, is checked nevertheless.
        if text and wait and not self._keys.knows_id(text):
            self._attempts.held_off(address)
            _count(scope, "held-off")
            raise _held_off(math.ceil(wait))
        try:
            key = self._keys.find(text)
        except KeyRefused as refused:
            _count(scope, refused.reason)
            if text:
                self._report(scope, refused.reason, self._attempts.failed(address, digest))
            if wait and refused.reason == "unknown":
                raise _held_off(math.ceil(self._attempts.wait_s(address, digest))) from None
            raise Problem(
                401,
                "unauthorized",
                "A valid key is needed",
                TEXTS[refused.reason],
                headers={"WWW-Authenticate": 'Bearer realm="snf"'},
            ) from None
        except KeysUnreadable as error:
            _count(scope, "unreadable")
            raise Problem(
                503,
                "keys-unreadable",
                "The keys cannot be read",
                "the file of keys is damaged or gone, so no key of it is accepted; see the log of the service",
                headers={"Retry-After": "30"},
            ) from error
        self._attempts.succeeded(address, digest)
        return key

    def _report(self, scope: Scope, reason: Refusal, attempts: Attempts) -> None:
        # The first wrong key of an address, then each that extends its wait, with the number of attempts since.
        if attempts.wrong > 1 and not attempts.blocked_until:
            return
        if not self._windows.hit(REPORTS, "reports"):
            return
        address = address_of(scope)
        log.warning("%d attempts with a wrong key from %s (%s)", attempts.unreported, address, reason)
        record = {
            "time": timestamp(),
            "event": "wrong-key",
            "reason": reason,
            "attempts": attempts.unreported,
            "address": address,
            "agent": shortened(Headers(scope=scope).get("user-agent", "")),
            "method": shortened(scope["method"]),
            "path": shortened(scope["path"]),
        }
        attempts.unreported = 0
        self._writer.put(self._audit, record)


def is_open(path: str) -> bool:
    """Return whether a path needs no API key: health checks and pages without data, such as ``/docs``."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def given_key(scope: Scope) -> str | None:
    headers = Headers(scope=scope)
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return headers.get("x-api-key")


def _held_off(seconds: int) -> Problem:
    return Problem(
        429,
        "too-many-wrong-keys",
        "Too many wrong keys",
        f"too many wrong keys came from this address; try again in {seconds} s",
        headers={"Retry-After": str(seconds)},
    )


def _count(scope: Scope, reason: str) -> None:
    metrics = scope.get("state", {}).get("metrics")
    if isinstance(metrics, ServiceMetrics):
        metrics.count_authentication_failure(reason)
