"""How late the event loop is: a task that sleeps, and measures by how much it overslept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from app.metrics.registry import Metrics

EVERY_S = 0.5


@asynccontextmanager
async def measure_loop_lag(metrics: Metrics) -> AsyncIterator[None]:
    """Measures while its block runs."""
    task = asyncio.create_task(_watch(metrics), name="loop-lag")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _watch(metrics: Metrics) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + EVERY_S
        await asyncio.sleep(EVERY_S)
        metrics.observe_lag(max(0.0, loop.time() - due))
