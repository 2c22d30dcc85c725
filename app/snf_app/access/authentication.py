"""Authentication by API keys in the headers ``Authorization: Bearer`` or ``X-API-Key``."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from snf_app.access.permissions import SCOPE, Caller, address_of, caller_of, network_of
from snf_app.http.errors import Problem, problem_response
from snf_app.http.request_log import BackgroundLog, audit_file, sender_of, timestamp
from snf_app.metrics.registry import ServiceMetrics
from snf_client.schemas.base import Role
from snf_worker.keys import KeyFile, KeysUnreadable, StoredKey, digest_of, id_in
from snf_worker.settings import Settings

CHECK_S = 0.5  # seconds between checks of the file; a change of the keys takes effect within that time

Refusal = Literal["missing", "unknown", "expired", "revoked"]


class KeyRefused(Exception):
    """Raised with a ``reason``: ``missing``, ``unknown``, ``expired`` or ``revoked``."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason)
        self.reason: Refusal = reason


@dataclass(frozen=True)
class HeldKey:
    """API key that the service accepts, without its secret."""

    id: str
    name: str  # given by an administrator
    role: Role
    requests: str | None = None  # such as ``600/minute``; None for no limit
    images: str | None = None


class KeyRing:
    """Keys of ``SNF_API_KEYS`` and of ``keys.json``. If that file is damaged or gone, keys are still needed."""

    def __init__(self, settings: Settings) -> None:
        self._environment = [
            (digest_of(text), HeldKey(f"environment-{number}", f"SNF_API_KEYS, number {number}", "admin"))
            for number, text in enumerate(settings.api_keys, 1)
        ]
        self._file = KeyFile(settings.keys_file)
        self._stored: dict[str, StoredKey] = {}
        self._imported: dict[str, StoredKey] = {}
        self._problem: str | None = None
        self._seen: tuple[int, int, int] | None = None
        self._next_check = 0.0
        self._lock = threading.Lock()
        self._refresh()

    @property
    def needed(self) -> bool:
        """Whether requests must carry an API key: there are keys, or a key file did exist."""
        self._refresh()
        return bool(self._environment) or self._seen is not None or self._problem is not None

    def knows_id(self, text: str) -> bool:
        """Return whether the id in an API key is in the key file; the secret is not checked."""
        self._refresh()
        return id_in(text) in self._stored

    def find(self, text: str | None) -> HeldKey:
        """Return the accepted key that matches a text; raise ``KeyRefused`` or ``KeysUnreadable``."""
        self._refresh()
        if not text:
            raise KeyRefused("missing")
        digest = digest_of(text)
        # All keys are compared in full, so that the time does not depend on which of them matches.
        matching = [held for known, held in self._environment if hmac.compare_digest(known, digest)]
        if matching:
            return matching[0]
        if self._problem is not None:
            raise KeysUnreadable(self._problem)
        # Neither an id nor the digest of a given text is a secret, so this look-up may take any time.
        stored = self._stored.get(id_in(text) or "") or self._imported.get(digest)
        now = datetime.now(UTC)
        if stored is None or not stored.matches(digest, now):
            raise KeyRefused("unknown")
        state = stored.state(now)
        if state != "active":
            raise KeyRefused(state)
        return HeldKey(stored.id, stored.name, stored.role, stored.requests, stored.images)

    def _refresh(self) -> None:
        now = time.monotonic()
        if now < self._next_check:
            return
        with self._lock:
            self._next_check = now + CHECK_S
            try:
                stat = self._file.path.stat()
                version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
                if version == self._seen and self._problem is None:
                    return
                keys = self._file.read()
                self._stored = {key.id: key for key in keys}
                self._imported = {key.imported: key for key in keys if key.imported is not None}
            except FileNotFoundError:
                if self._seen is not None:
                    self._close(f"{self._file.path} is gone; put it back, or start the service again without keys")
                return
            except (KeysUnreadable, OSError) as error:
                self._close(str(error))
                return
            if self._problem is not None:
                log.warning("the keys can be read again")
            self._seen, self._problem = version, None

    def _close(self, problem: str) -> None:
        if problem != self._problem:
            log.error("no key of %s is accepted: %s", self._file.path, problem)
        self._stored, self._imported, self._problem = {}, {}, problem


FREE_ATTEMPTS = 10
WINDOW_S = 60.0  # seconds without a wrong key after which an address is forgotten
MAX_WAIT_S = 60.0  # longest wait in seconds; it starts at one second and doubles with every further wrong key
MAX_REMEMBERED = 4096
"""Most addresses, and most valid keys of addresses, to remember; the least recently used is dropped first."""


@dataclass
class Attempts:
    """Wrong keys of an IPv4 address or an IPv6 /64 network."""

    wrong: int = 0
    unreported: int = 0  # since the last report in the audit log
    blocked_until: float = 0.0  # on the clock of ``FailedAttempts``, in seconds
    forget_at: float = 0.0


class FailedAttempts:
    """Counter that makes an address wait from the 10th wrong key on; keys valid from there need not."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._addresses: OrderedDict[str, Attempts] = OrderedDict()
        self._right: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait_s(self, address: str, digest: str) -> float:
        """Return the seconds until an address's next key may be checked; 0 for a key that was valid from there."""
        known = self._addresses.get(network_of(address))
        if known is None or (address, digest) in self._right:
            return 0.0
        return max(0.0, known.blocked_until - self._clock())

    def failed(self, address: str, digest: str) -> Attempts:
        """Count a wrong API key, which doubles the wait from the 10th on; return the record of the address."""
        self._right.pop((address, digest), None)
        now = self._clock()
        network = network_of(address)
        known = self._addresses.pop(network, None)
        if known is None or known.forget_at <= now:
            known = Attempts()
        known.wrong += 1
        known.unreported += 1
        if known.wrong >= FREE_ATTEMPTS:
            known.blocked_until = now + min(MAX_WAIT_S, 2.0 ** min(known.wrong - FREE_ATTEMPTS, 30))
        known.forget_at = max(now, known.blocked_until) + WINDOW_S
        _remember(self._addresses, network, known)
        return known

    def held_off(self, address: str) -> None:
        """Count a request refused unchecked, for the audit log; the wait stays the same."""
        known = self._addresses.get(network_of(address))
        if known is not None:
            known.unreported += 1

    def succeeded(self, address: str, digest: str) -> None:
        """Record that a key, of which only the digest is stored, is valid from an address."""
        self._right.pop((address, digest), None)
        _remember(self._right, (address, digest), None)


def _remember(memory: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    memory[key] = value
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)


QUOTA = "snf.quota"  # key of a request's scope that holds the ``KeyQuota`` of its API key


@dataclass(frozen=True)
class KeyQuota:
    """Rates of requests and images of an API key, over sliding windows in the memory of this process."""

    key: HeldKey
    limiter: SlidingWindowCounterRateLimiter

    def take(self, unit: Literal["requests", "images"], amount: int) -> None:
        """Count an amount against the rate of the key; raise 429, or 422 if the amount exceeds it alone."""
        rate: str | None = getattr(self.key, unit)
        if rate is None:
            return
        limit, extensions = parse(rate), {"limit": rate, "unit": unit}
        if amount > limit.amount:
            raise Problem(
                "larger-than-rate-limit",
                f"it has {amount} {unit}, and the key {self.key.name!r} allows {rate}; send fewer at once",
                extensions=extensions,
            )
        if self.limiter.hit(limit, self.key.id, unit, cost=amount):
            return
        reset = self.limiter.get_window_stats(limit, self.key.id, unit).reset_time
        wait = max(1, math.ceil(reset - time.time()))
        raise Problem(
            "rate-limited",
            f"the key {self.key.name!r} allows {rate} {unit}; try again in {wait} s",
            retry_s=wait,
            extensions=extensions,
        )

    def headers(self) -> dict[str, str]:
        """Return ``RateLimit-Policy`` and ``RateLimit`` of draft-ietf-httpapi-ratelimit-headers-10, if any."""
        policies, states = [], []
        for unit, rate in (("requests", self.key.requests), ("images", self.key.images)):
            if rate is not None:
                limit = parse(rate)
                window = self.limiter.get_window_stats(limit, self.key.id, unit)
                reset = max(0, math.ceil(window.reset_time - time.time()))
                policies.append(f'"{unit}";q={limit.amount};w={limit.get_expiry()}')
                states.append(f'"{unit}";r={window.remaining};t={reset}')
        return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)} if policies else {}


def take_images(scope: Scope, count: int) -> None:
    """Count a request's images against the rate of its key, if it has one; raise 429 or 422."""
    quota = scope.get(QUOTA)
    if isinstance(quota, KeyQuota):
        quota.take("images", count)


def with_headers(scope: Scope, send: Send) -> Send:
    """Return a ``send`` that adds the rate-limit headers of a request's API key to its answer."""
    quota = scope.get(QUOTA)
    if not isinstance(quota, KeyQuota):
        return send

    async def limited(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(quota.headers())
        await send(message)

    return limited


READINESS = "/readyz"
HEALTH_PATHS = frozenset({"/healthz", READINESS, "/v2/health/live", "/v2/health/ready"})
OPEN_PATHS = HEALTH_PATHS | {"/", "/docs", "/openapi.json"}
OPEN_FOLDERS = ("/console/", "/docs/files/", "/guide/")
"""Paths that need no key: health checks, and pages that contain no data."""

OPEN_RATE = parse("2000/10 seconds")
"""Most requests of an address to paths that need no key, health checks by themselves. The console has 110 files."""
REFUSAL_RATE = parse("100/10 seconds")  # most refusals of an address that are answered at once
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
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._windows = FixedWindowRateLimiter(MemoryStorage())
        self._writer = writer
        self._audit = audit_file(settings)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass a request to the application if its key is valid; otherwise answer with 401, 429 or 503."""
        if scope["type"] == "http":
            try:
                if is_open(scope["path"]):
                    self._take_open(scope)
                    if scope["path"] == READINESS and (given_key(scope) or not self._keys.needed):
                        with suppress(Problem):  # a wrong key gets what no key gets
                            self._identify(scope)
                else:
                    key = self._identify(scope)
                    if key is not None:
                        quota = scope[QUOTA] = KeyQuota(key, self._limiter)
                        quota.take("requests", 1)
            except Problem as problem:
                return self._refuse(problem, scope, receive, send)
        return self._app(scope, receive, with_headers(scope, send))

    async def _refuse(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._windows.hit(REFUSAL_RATE, "refusals", network_of(address_of(scope))):
            await asyncio.sleep(PAUSE_S)
        await problem_response(problem, scope["path"])(scope, receive, with_headers(scope, send))

    def _take_open(self, scope: Scope) -> None:
        kind = "health" if scope["path"] in HEALTH_PATHS else "pages"
        if not self._windows.hit(OPEN_RATE, kind, network_of(address_of(scope))):
            detail = f"an address gets {OPEN_RATE.amount} answers without a key in {OPEN_RATE.get_expiry()} s; wait"
            raise Problem("too-many-requests", detail, retry_s=10)

    def _identify(self, scope: Scope) -> HeldKey | None:
        """Store the caller, and return the key, or None where the service has no keys."""
        if not self._keys.needed:
            scope[SCOPE] = caller_of(scope)
            return None
        address = address_of(scope)
        key = self._key(scope, address)
        scope[SCOPE] = Caller(f"key:{key.id}", address, key.role, key.name)
        return key

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
                "unauthorized", TEXTS[refused.reason], headers={"WWW-Authenticate": 'Bearer realm="snf"'}
            ) from None
        except KeysUnreadable as error:
            _count(scope, "unreadable")
            raise Problem(
                "keys-unreadable",
                "the file of keys is damaged or gone, so no key of it is accepted; see the log of the service",
                retry_s=30,
            ) from error
        self._attempts.succeeded(address, digest)
        return key

    def _report(self, scope: Scope, reason: Refusal, attempts: Attempts) -> None:
        # The first wrong key of an address, then each that extends its wait, with the number of attempts since.
        if attempts.wrong > 1 and not attempts.blocked_until:
            return
        if not self._windows.hit(REPORTS, "reports"):
            return
        log.warning("%d attempts with a wrong key from %s (%s)", attempts.unreported, address_of(scope), reason)
        record = {
            "time": timestamp(),
            "event": "wrong-key",
            "reason": reason,
            "attempts": attempts.unreported,
            **sender_of(scope),
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
        "too-many-wrong-keys", f"too many wrong keys came from this address; try again in {seconds} s", retry_s=seconds
    )


def _count(scope: Scope, reason: str) -> None:
    metrics = scope.get("state", {}).get("metrics")
    if isinstance(metrics, ServiceMetrics):
        metrics.authentication_failures.labels(reason).inc()
