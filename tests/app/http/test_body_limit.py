"""Bodies of one caller beside those of others, and bodies that hardly arrive, through the middleware alone."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from snf_app.http.bodies import BodyLimit, BodyTooLarge, BodyTooSlow, PacedBody, PaceLimits, TooMuchInFlight

PATIENT = PaceLimits(60.0, 0)


def chunk(size: int, more: bool = True) -> Message:
    return {"type": "http.request", "body": bytes(size), "more_body": more}


class Service:
    """Reads all bodies and answers them when it is told to."""

    def __init__(self, limit: int, in_flight: int, pace: PaceLimits = PATIENT) -> None:
        streamed = frozenset({("POST", "/streamed")})
        self._limited = BodyLimit(self._read, limit, in_flight, pace, streamed)
        self._answer = asyncio.Event()

    async def _read(self, _scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await self._answer.wait()

    async def ask(self, address: str, *messages: Message, path: str = "/") -> asyncio.Task[None]:
        """A request that is read as far as it goes."""
        left = iter(messages)

        async def receive() -> Message:
            for message in left:
                return message
            await asyncio.sleep(60)
            raise AssertionError("it was waited for too long")

        async def send(_message: Message) -> None:
            pass

        scope = {"type": "http", "method": "POST", "path": path, "client": (address, 1), "headers": []}
        task: asyncio.Task[None] = asyncio.ensure_future(self._limited(scope, receive, send))
        await asyncio.sleep(0.01)
        return task

    async def answer(self, *tasks: asyncio.Task[None]) -> None:
        """Answers what waits."""
        self._answer.set()
        await asyncio.gather(*tasks)
        self._answer.clear()


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 10))


def error_of(task: asyncio.Task[None]) -> HTTPException:
    assert task.done()
    error = task.exception()
    assert isinstance(error, HTTPException)
    return error


def test_one_caller_cannot_hold_what_others_need() -> None:
    async def test() -> None:
        service = Service(limit=400, in_flight=800)
        greedy = [await service.ask("10.0.0.1", chunk(200, more=False)) for _ in range(4)]
        assert [task.done() for task in greedy] == [False, False, True, True]
        assert isinstance(error_of(greedy[2]), TooMuchInFlight)
        polite = [await service.ask("10.0.0.2", chunk(20, more=False)) for _ in range(10)]
        assert not any(task.done() for task in polite)
        await service.answer(*greedy[:2], *polite)
        again = [await service.ask("10.0.0.1", chunk(200, more=False)) for _ in range(2)]
        assert not any(task.done() for task in again), "what was answered is free again"
        await service.answer(*again)

    run(test)


def test_the_largest_body_fits_where_nothing_else_is_held() -> None:
    async def test() -> None:
        service = Service(limit=400, in_flight=400)
        pieces = [chunk(100) for _ in range(4)]
        alone = await service.ask("10.0.0.1", *pieces, chunk(0, more=False))
        assert not alone.done()
        await service.answer(alone)
        assert isinstance(error_of(await service.ask("10.0.0.1", *pieces, chunk(1))), BodyTooLarge)

    run(test)


@pytest.mark.parametrize("path", ["/", "/streamed"])
def test_a_body_that_falls_silent_is_given_up_and_frees_its_share(path: str) -> None:
    async def test() -> None:
        service = Service(limit=100, in_flight=100, pace=PaceLimits(0.05, 0))
        silent = await service.ask("10.0.0.1", chunk(100), path=path)
        await asyncio.wait([silent])
        error = error_of(silent)
        assert (error.status_code, type(error)) == (408, BodyTooSlow)
        assert "0.05 s" in error.detail
        after = await service.ask("10.0.0.2", chunk(100, more=False), path=path)
        assert not after.done()
        await service.answer(after)

    run(test)


async def trickle(pause: float, size: int) -> AsyncIterator[Message]:
    while True:
        await asyncio.sleep(pause)
        yield chunk(size)


def test_a_body_that_trickles_is_given_up_and_a_slow_one_is_not() -> None:
    async def read(pause: float, size: int, messages: int) -> None:
        body = PacedBody(anext_of(trickle(pause, size)), PaceLimits(0.1, 1000))
        for _ in range(messages):
            await body()

    def anext_of(source: AsyncIterator[Message]) -> Receive:
        async def receive() -> Message:
            return await anext(source)

        return receive

    with pytest.raises(BodyTooSlow, match="1000 bytes/s"):
        asyncio.run(read(0.02, 1, 50))
    asyncio.run(read(0.02, 100, 20))


def test_only_the_time_in_which_it_is_waited_for_counts() -> None:
    async def test() -> None:
        messages = iter([chunk(1), chunk(1), chunk(1, more=False)])

        async def receive() -> Message:
            for message in messages:
                return message
            await asyncio.sleep(0.3)
            return {"type": "http.disconnect"}

        body = PacedBody(receive, PaceLimits(0.1, 1000))
        for _ in range(3):
            await asyncio.sleep(0.15)
            assert (await body())["type"] == "http.request"
        assert (await body())["type"] == "http.disconnect", "past its end a body has no limit of time"

    run(test)


def test_silence_counts_through_calls_that_are_cancelled() -> None:
    async def test() -> None:
        async def receive() -> Message:
            await asyncio.sleep(60)
            raise AssertionError("it was waited for too long")

        body = PacedBody(receive, PaceLimits(0.2, 0))

        async def look_again() -> None:
            while True:
                try:
                    async with asyncio.timeout(0.05):
                        await body()
                except TimeoutError:
                    continue

        with pytest.raises(BodyTooSlow):
            await look_again()

    run(test)
