"""Many requests to a service that a test runs in its process, made from the service's own thread."""

from collections.abc import Iterable
from typing import Any

import httpx
from fastapi.testclient import TestClient


def answers(client: TestClient, requests: Iterable[httpx.Request]) -> list[httpx.Response]:
    """Send requests one after the other: to pass each one to the service's thread takes longer than its answer."""

    async def with_state(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await client.app(scope | {"state": client.app_state.copy()}, receive, send)

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(with_state, raise_app_exceptions=False, client=("testclient", 50000))
        async with httpx.AsyncClient(transport=transport) as service:
            return [await service.send(request) for request in requests]

    assert client.portal is not None
    return client.portal.call(ask)
