"""Calls to a running service, for commands with `--url`."""

from __future__ import annotations

from typing import Any

import httpx

from app.commands.common import SERVICE, USAGE, fail

TIMEOUT_S = 120.0


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


def describe(response: httpx.Response) -> str:
    """An error answer in one line."""
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        problem = response.json()
        return f"{problem['title']}: {problem['detail']}"
    return f"the service answered {response.status_code} {response.reason_phrase}"
