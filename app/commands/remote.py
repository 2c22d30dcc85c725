"""Calls to a running service, for commands with `--url`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from httpx_sse import EventSource, connect_sse

from app.commands.common import SERVICE, USAGE, fail

TIMEOUT_S = 120.0
SILENCE_S = 45.0
"""Time without a word after which an event stream is lost; the service says something every 15 s."""


class Remote:
    """A running service; a call that it refuses or does not answer ends the command with a message."""

    def __init__(self, url: str, key: str | None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT_S)

    def call(self, method: str, path: str, *, accept: tuple[int, ...] = (), **options: Any) -> httpx.Response:
        """The answer of one call; statuses of 400 and above end the command unless they are in `accept`."""
        try:
            response = self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise fail(f"{self._client.base_url} does not answer: {error}", SERVICE) from error
        if response.status_code >= 400 and response.status_code not in accept:
            usage = response.status_code < 500 and response.status_code != 429
            raise fail(describe(response), USAGE if usage else SERVICE)
        return response

    @contextmanager
    def events(self, path: str, last_id: str) -> Iterator[EventSource]:
        """An event stream from the event after `last_id` on; raises `httpx.HTTPError` where the connection is lost."""
        headers = {"Last-Event-ID": last_id} if last_id else {}
        timeout = httpx.Timeout(TIMEOUT_S, read=SILENCE_S)
        with connect_sse(self._client, "GET", path, headers=headers, timeout=timeout) as source:
            yield source


def describe(response: httpx.Response) -> str:
    """An error answer in one line."""
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        problem = response.json()
        return f"{problem['title']}: {problem['detail']}"
    return f"the service answered {response.status_code} {response.reason_phrase}"
