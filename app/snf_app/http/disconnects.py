from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request


@asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Cancel the block and raise ``ClientDisconnect`` if the client leaves; the body must have been read."""
    try:
        async with asyncio.timeout(None) as limit:
            watch = asyncio.create_task(_expire_at_disconnect(request, limit))
            try:
                yield
            finally:
                watch.cancel()
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise ClientDisconnect from error


async def _expire_at_disconnect(request: Request, limit: asyncio.Timeout) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
    limit.reschedule(asyncio.get_running_loop().time())
