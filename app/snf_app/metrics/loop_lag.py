from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from snf_app.metrics.registry import ServiceMetrics
from snf_worker.runtime.parent_death import beat

EVERY_S = 0.5


@asynccontextmanager
async def measure_loop_lag(metrics: ServiceMetrics) -> AsyncIterator[None]:
    """Record every 0.5 s how late a sleeping task wakes up, and send the launcher a heartbeat."""
    task = asyncio.create_task(_measure(metrics), name="loop-lag")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _measure(metrics: ServiceMetrics) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + EVERY_S
        await asyncio.sleep(EVERY_S)
        metrics.observe_lag(max(0.0, loop.time() - due))
        beat()
