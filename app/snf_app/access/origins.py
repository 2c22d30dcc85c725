"""Protection from other web pages, and from DNS rebinding, by ``Host``, ``Origin`` and ``Sec-Fetch-Site``."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from snf_app.access.authentication import KeyRing
from snf_app.http.errors import Problem, problem_response
from snf_worker.settings import Settings, is_loopback

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing. Any page may send them, because it cannot read the answers."""
EXPOSED = ("Content-Disposition", "Location", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-Id", "X-Seed")
"""Headers of answers that pages of allowed origins can read, besides those that every page can."""
ANY = "*"
DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?")


class OriginCheck:
    """Middleware that refuses unknown hosts, unless callers need keys, and changes asked for by other pages."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: KeyRing) -> None:
        self._app = with_cors(app, settings.cors_origins)
        self._hosts = frozenset(settings.allowed_hosts) | _bound_hosts(settings.host)
        self._restricted = bool(settings.allowed_hosts)
        self._origins = frozenset(settings.cors_origins)
        self._keys = keys

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass a request to the application, or answer with a 400 or 403 error."""
        problem = self._problem(scope) if scope["type"] == "http" else None
        app: ASGIApp = self._app if problem is None else problem_response(problem, scope["path"])
        return app(scope, receive, send)

    def _problem(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or (host := _HOST.fullmatch(hosts[0].lower())) is None:
            got = ascii(hosts[0][:100]) if len(hosts) == 1 else f"{len(hosts)} headers"
            return Problem("invalid-host", f"expected one host name, got {got}")
        # A page whose host name resolves to 127.0.0.1 can read answers, but its requests have that name.
        name = host["name"].rstrip(".")
        if not self._answers(name):
            return Problem(
                "host-not-allowed",
                f"this service does not answer to {name[:100]!r}; to allow it, add it to SNF_ALLOWED_HOSTS",
            )
        origins, method = headers.getlist("origin"), scope["method"]
        preflight = method == "OPTIONS" and "access-control-request-method" in headers
        if (method in READING and not preflight) or self._may_change(scope["scheme"], hosts[0], origins, headers):
            return None
        source = ascii(origins[0][:200]) if origins else "another site"
        return Problem(
            "cross-origin",
            f"expected a request from a page of this service or from a program, got one from a page of {source}; to "
            "allow an origin, add it to SNF_CORS_ORIGINS; a proxy must pass the header Host on unchanged",
        )

    def _answers(self, name: str) -> bool:
        if name in self._hosts or ANY in self._hosts:
            return True
        return (not self._restricted and self._keys.needed) or is_loopback(name.strip("[]"))

    def _may_change(self, scheme: str, host: str, origins: Collection[str], headers: Headers) -> bool:
        site = headers.get("sec-fetch-site", "none")
        if not origins:
            # ``same-site`` is a page on another port or below the same domain: not a page of this service.
            return site in ("none", "same-origin")
        if len(origins) > 1:
            return False
        (origin,) = origins
        if origin.lower() in self._origins:
            return True
        return site != "cross-site" and _is_origin_of(origin.lower(), scheme, host.lower())


def with_cors(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Return the app wrapped so that web pages of the origins may call it (CORS); unchanged without any."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=[ANY],
        allow_headers=[ANY],
        allow_private_network=True,
        expose_headers=EXPOSED,
    )


def _is_origin_of(origin: str, scheme: str, host: str) -> bool:
    """Whether a page of `origin` was served by the service that a request names as `host`."""
    try:
        of_origin = urlsplit(origin)
        of_host = urlsplit(f"{of_origin.scheme}://{host}")
        default = DEFAULT_PORTS[of_origin.scheme]
        ports = of_origin.port or default, of_host.port or default
    except (KeyError, ValueError):
        return False
    # Behind a proxy that ends TLS, requests of an https page arrive by http, never the other way round.
    plain = of_origin.scheme == "http" and scheme == "https"
    return not plain and of_origin.hostname == of_host.hostname and ports[0] == ports[1]


def _bound_hosts(host: str) -> frozenset[str]:
    """Return the names under which the address that the service listens on is called, none where that is any."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return frozenset({host.lower()})
    if address.is_unspecified:
        return frozenset()
    return frozenset({f"[{address}]" if address.version == 6 else str(address)})
