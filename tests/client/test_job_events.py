"""Following a job whose stream breaks off: every event once, in order."""

import asyncio
from dataclasses import replace

import pytest

from snf_client import AsyncClient, Client, Event, NotFound, ProblemError, Retries, ServiceUnavailable
from snf_client import jobs as events_module
from snf_client.jobs import EndEvent, MetricsEvent
from tests.client.scripted_server import DROPPED, QUICK, Answer, problem, scripted

STREAM = {"Content-Type": "text/event-stream"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "RECONNECTING", Retries(first_pause=0.01, longest_pause=0.02))


def stream(*steps: int, end: bool = False, cut: bool = True) -> Answer:
    lines = ["retry: 2000\n\n"]
    lines += [f'event: metrics\ndata: {{"step": {step}, "steps": 9}}\nid: {step}\n\n' for step in steps]
    lines += ['event: end\ndata: {"status": "succeeded"}\nid: 9.end\n\n'] if end else []
    return Answer(200, "".join(lines).encode(), STREAM, cut=cut)


BROKEN = (
    stream(1, 2),
    DROPPED,
    problem(503, "draining"),
    stream(cut=False),
    stream(3, cut=False),
    problem(429, "too-many-event-streams", headers={"Retry-After": "0"}),
    stream(4, 5, end=True, cut=False),
)


def check(found: list[Event], asked: list[str | None]) -> None:
    assert [event.id for event in found] == ["1", "2", "3", "4", "5", "9.end"]
    assert all(isinstance(event, MetricsEvent) and event.step == int(event.id) for event in found[:-1])
    assert isinstance(found[-1], EndEvent)
    assert found[-1].status == "succeeded"
    assert found[0].data == {"step": 1, "steps": 9}
    assert asked == [None, "2", "2", "2", "2", "3", "3"]


def test_events_in_threads() -> None:
    with scripted(*BROKEN) as server, Client(server.url, retries=QUICK) as client:
        check(list(client.jobs.events("x")), [request.headers.get("Last-Event-ID") for request in server.requests])


def test_events_on_a_loop() -> None:
    async def follow(url: str) -> list[Event]:
        async with AsyncClient(url, retries=QUICK) as client:
            return [event async for event in client.jobs.events("x")]

    with scripted(*BROKEN) as server:
        found = asyncio.run(follow(server.url))
        check(found, [request.headers.get("Last-Event-ID") for request in server.requests])


def test_going_on_after_an_event() -> None:
    with scripted(stream(8, end=True, cut=False)) as server, Client(server.url) as client:
        assert [event.id for event in client.jobs.events("x", after="7")] == ["8", "9.end"]
        assert server.requests[0].headers["Last-Event-ID"] == "7"


def test_a_job_that_was_told_to_the_end() -> None:
    with scripted(Answer(204, b"")) as server, Client(server.url) as client:
        assert list(client.jobs.events("x", after="9.end")) == []


def test_following_ends_where_it_is_of_no_use() -> None:
    with scripted(problem(404, "job-not-found")) as server, Client(server.url, retries=QUICK) as client:
        with pytest.raises(NotFound):
            list(client.jobs.events("x"))
        assert len(server.requests) == 1
    lost = [DROPPED] * 40
    with scripted(*lost) as server, Client(server.url, retries=QUICK) as client:
        with pytest.raises(ServiceUnavailable):
            list(client.jobs.events("x"))
        assert len(server.requests) == QUICK.attempts
    told: list[float] = []
    heard = replace(QUICK, on_retry=lambda _error, seconds: told.append(seconds))
    with scripted(stream(1), *lost) as server, Client(server.url, retries=heard) as client:
        with pytest.raises(ServiceUnavailable):
            list(client.jobs.events("x"))
        assert len(server.requests) == 2 + events_module.MAX_LOST_CONNECTIONS - 1
    assert len(told) == events_module.MAX_LOST_CONNECTIONS


@pytest.mark.parametrize("asked_s", [3600.0, float("9" * 400)])
def test_a_proxy_that_asks_for_a_long_wait_is_tried_again_after_a_minute(asked_s: float) -> None:
    reader = events_module.JobEventReader("x", "7", Retries())
    refused = ProblemError(503, "about:blank", "Maintenance", "", retry_after=asked_s)
    assert reader.pause(refused) == events_module.LONGEST_PAUSE_S == 60
