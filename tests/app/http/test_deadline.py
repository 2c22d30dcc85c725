"""Deadlines of requests: that of the service grows with the work, that of a client stays."""

import asyncio

import pytest

from snf_app.http.admission import deadline
from snf_app.http.errors import Problem


async def work(timeout_ms: int | None, seconds: float) -> float:
    """Work for some seconds that were announced at the start; return the limit then."""
    async with deadline(timeout_ms, 0.01) as time:
        time.extend(60)
        await asyncio.sleep(seconds)
    return time.seconds


def test_that_of_the_service_grows() -> None:
    assert asyncio.run(work(None, 0.1)) == 60.01


def test_that_of_a_client_stays() -> None:
    with pytest.raises(Problem, match=r"the work took longer than 0\.01 s and was cancelled") as passed:
        asyncio.run(work(10, 1))
    assert passed.value.status == 504
