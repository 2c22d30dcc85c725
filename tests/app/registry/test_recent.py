"""How long a result is shared depends on what it cost, and not on waiting."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from snf_app.registry.model_pool import MAX_AGE_S, TtlCache

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that the test moves, and a function that takes a given time by it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cost_s: float) -> None:
        self.now, self.calls, self._cost_s = 1000.0, 0, cost_s
        monkeypatch.setattr("snf_app.registry.model_pool.time", SimpleNamespace(monotonic=lambda: self.now))

    def compute(self) -> int:
        self.now += self._cost_s
        self.calls += 1
        return self.calls


@pytest.mark.parametrize(("cost_s", "used_s"), [(0.002, 0.1), (1.0, MAX_AGE_S), (60.0, MAX_AGE_S)])
async def test_a_result_is_used_for_a_short_time(monkeypatch: pytest.MonkeyPatch, cost_s: float, used_s: float) -> None:
    clock = Clock(monkeypatch, cost_s)
    recent = TtlCache(clock.compute)
    assert await recent.get() == 1
    clock.now += 0.99 * used_s
    assert await recent.get() == 1
    clock.now += 0.02 * used_s
    assert await recent.get() == 2


async def test_the_wait_for_a_free_thread_is_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.002)
    recent = TtlCache(clock.compute)
    free = threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    blocker = asyncio.create_task(asyncio.to_thread(free.wait, 60))
    await asyncio.sleep(0)
    first = asyncio.create_task(recent.get())
    await asyncio.sleep(0.05)
    clock.now += 5.0
    free.set()
    assert await first == 1
    await blocker
    clock.now += 0.11
    assert await recent.get() == 2
