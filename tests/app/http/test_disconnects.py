"""Work for a request ends when its client disconnects, and is not disturbed otherwise."""

import asyncio

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from snf_app.http.admission import while_connected


def request(messages: asyncio.Queue[Message]) -> Request:
    return Request({"type": "http"}, messages.get)


def test_work_is_cancelled_when_the_client_leaves() -> None:
    ended: list[str] = []

    async def work(messages: asyncio.Queue[Message]) -> None:
        async with while_connected(request(messages)):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

    async def main() -> None:
        messages: asyncio.Queue[Message] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        asyncio.get_running_loop().call_later(0.05, messages.put_nowait, {"type": "http.disconnect"})
        with pytest.raises(ClientDisconnect):
            await work(messages)

    asyncio.run(main())
    assert ended == ["cancelled"]


def test_work_of_a_client_that_stays_is_not_disturbed() -> None:
    async def main() -> int:
        messages: asyncio.Queue[Message] = asyncio.Queue()
        async with while_connected(request(messages)):
            await asyncio.sleep(0)
            done = 1
        messages.put_nowait({"type": "http.disconnect"})
        await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError, match="own"):
            async with while_connected(request(asyncio.Queue())):
                raise TimeoutError("own")
        return done

    assert asyncio.run(main()) == 1
