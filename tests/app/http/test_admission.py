"""Shared capacity and connections: what is admitted, whoever asks for it in whatever order."""

import asyncio
import random
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from snf_app.http.admission import FairShares, deadline, while_connected
from snf_app.http.connections import Connection, ConnectionWatch
from snf_app.http.errors import Problem
from snf_worker.settings import Settings

pytestmark = pytest.mark.anyio

CALLERS = ("a", "b", "c", "d")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("capacity", "alone"), [(1, 0), (2, 0), (7, 0), (1000, 0), (1000, 700)])
def test_properties_hold_after_every_step(capacity: int, alone: int, seed: int) -> None:
    chance = random.Random(seed)
    shares = FairShares(capacity, alone)
    grants: list[tuple[str, int]] = []
    for _ in range(300):
        if grants and chance.random() < 0.4:
            shares.give_back(*grants.pop(chance.randrange(len(grants))))
        else:
            caller, amount = chance.choice(CALLERS), chance.randint(1, max(1, capacity // 3))
            held, free = shares.held(caller), shares.free
            others = capacity - free - held
            admitted = shares.take(caller, amount)
            fits = amount <= free
            fair = held + amount <= free - amount + 1
            assert admitted == (fits and (fair or (others == 0 and held + amount <= alone)))
            if admitted:
                grants.append((caller, amount))
        for name in CALLERS:
            assert shares.held(name) == sum(amount for caller, amount in grants if caller == name)
        assert shares.free == capacity - sum(amount for _, amount in grants) >= 0
    for grant in grants:
        shares.give_back(*grant)
    assert shares.free == capacity
    assert [shares.held(name) for name in CALLERS] == [0] * len(CALLERS)


def test_a_service_without_other_work_takes_the_largest_request() -> None:
    shares = FairShares(100, alone=90)
    assert not shares.take("a", 91)
    assert shares.take("a", 45)
    assert shares.take("a", 45), "in pieces as well"
    assert shares.take("b", 5)
    shares.give_back("a", 45)
    assert not shares.take("a", 45), "not beside another caller"


def test_no_unit_is_lost_between_threads() -> None:
    shares = FairShares(64)

    def work(number: int) -> None:
        name = CALLERS[number % len(CALLERS)]
        for amount in range(1, 400):
            if shares.take(name, amount % 7):
                shares.give_back(name, amount % 7)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert shares.free == 64


def test_impossible_amounts_are_refused() -> None:
    shares = FairShares(4)
    with pytest.raises(ValueError, match="0 or more"):
        shares.take("a", -1)
    with pytest.raises(ValueError, match="at most 0 units"):
        shares.give_back("a", 1)
    assert not shares.take("a", 5)
    assert shares.take("a", 0)


async def work(timeout_ms: int | None, seconds: float) -> float:
    """Work for some seconds that were announced at the start; return the limit then."""
    async with deadline(timeout_ms, 0.01) as time:
        time.extend(60)
        await asyncio.sleep(seconds)
    return time.seconds


async def test_that_of_the_service_grows() -> None:
    assert await work(None, 0.1) == 60.01


async def test_that_of_a_client_stays() -> None:
    with pytest.raises(Problem, match=r"the work took longer than 0\.01 s and was cancelled") as passed:
        await work(10, 1)
    assert passed.value.status == 504


def request(messages: asyncio.Queue[Message]) -> Request:
    return Request({"type": "http"}, messages.get)


async def test_work_is_cancelled_when_the_client_leaves() -> None:
    ended: list[str] = []

    async def work(messages: asyncio.Queue[Message]) -> None:
        async with while_connected(request(messages)):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

    messages: asyncio.Queue[Message] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    asyncio.get_running_loop().call_later(0.05, messages.put_nowait, {"type": "http.disconnect"})
    with pytest.raises(ClientDisconnect):
        await work(messages)
    assert ended == ["cancelled"]


async def test_work_of_a_client_that_stays_is_not_disturbed() -> None:
    messages: asyncio.Queue[Message] = asyncio.Queue()
    async with while_connected(request(messages)):
        await asyncio.sleep(0)
        done = 1
    messages.put_nowait({"type": "http.disconnect"})
    await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError, match="own"):
        async with while_connected(request(asyncio.Queue())):
            raise TimeoutError("own")
    assert done == 1


class Idle(Connection):
    """A connection that is never past a limit."""

    def __init__(self) -> None:
        pass

    def check(self, _now: float) -> None:
        pass


async def test_connections_are_shared_among_addresses() -> None:
    watch = ConnectionWatch(Settings(max_connections=16))
    greedy = [Idle() for _ in range(10)]
    refusals = [watch.admit(connection, "10.0.0.1") for connection in greedy]
    assert refusals[:8] == [None] * 8
    assert [refusal.status for refusal in refusals if refusal] == [429, 429]
    assert all(watch.admit(Idle(), f"10.0.1.{number}") is None for number in range(8))
    full = watch.admit(Idle(), "10.0.2.1")
    assert full is not None
    assert (full.status, full.headers) == (503, {"Retry-After": "5"})
    for connection in greedy:
        watch.release(connection)
    assert watch.admit(Idle(), "10.0.2.1") is None


async def test_clients_behind_a_trusted_proxy_are_not_one_address() -> None:
    watch = ConnectionWatch(Settings(max_connections=16, trusted_proxies=("10.0.0.0/24",)))
    assert [watch.admit(Idle(), "10.0.0.1") for _ in range(16)] == [None] * 16
    refused = watch.admit(Idle(), "10.0.0.1")
    assert refused is not None
    assert refused.status == 503


def test_connections_fit_in_the_limit_on_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 2304)]
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, pair: limits.append(pair))
    assert ConnectionWatch(Settings(max_connections=100)).max_connections == 100
    assert limits == [(1024, 2304)], "it is raised only where it is needed"
    assert ConnectionWatch(Settings(max_connections=1024)).max_connections == 512
    assert limits[-1] == (2304, 2304)
