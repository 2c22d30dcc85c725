"""What a page must never do: complain in the console, throw, lose a request, ask another host."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, WebError

LOUD = {"error", "warning", "assert"}
INLINE = {"data", "blob"}


class Collector:
    """Listens to all pages of `context`, whose requests may go to `origin` alone."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.found: list[str] = []
        self._context = context
        self._host = urlsplit(origin).netloc
        context.on("console", self._console)
        context.on("weberror", self._error)
        context.on("request", lambda request: self._asked(request.url))
        context.on("requestfailed", self._failed)
        context.on("page", self._page)

    def check(self) -> None:
        """Raises AssertionError that lists what was found so far."""
        assert not self.found, "the page is not clean:\n" + "\n".join(f"- {one}" for one in self.found)

    @contextmanager
    def expected(self, pattern: str) -> Iterator[None]:
        """Waits for a console message like `pattern` in its block, and forgives those: a refused upload is one."""

        def fits(message: ConsoleMessage) -> bool:
            return re.search(pattern, _told(message)) is not None

        with self._context.expect_console_message(fits):
            yield
        self.found = [one for one in self.found if not re.search(pattern, one)]

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in LOUD:
            self.found.append(_told(message))

    def _error(self, error: WebError) -> None:
        self.found.append(f"uncaught: {error.error.stack or error.error}")

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in INLINE and parts.netloc != self._host:
            self.found.append(f"request to another host: {url}")

    def _failed(self, request: Request) -> None:
        # A page aborts what it no longer needs, and a closed one its streams; nothing else is called so.
        if request.failure != "net::ERR_ABORTED":
            self.found.append(f"failed request: {request.method} {request.url}: {request.failure}")

    def _page(self, page: Page) -> None:
        page.on("websocket", lambda socket: self._asked(socket.url))
        page.on("crash", lambda _page: self.found.append("the page crashed"))


def _told(message: ConsoleMessage) -> str:
    return f"console {message.type}: {message.text} ({message.location['url']}:{message.location['lineNumber'] + 1})"
