"""Which connections are admitted."""

import resource

import pytest

from snf_app.http.connections import Connection, ConnectionWatch
from snf_worker.settings import Settings

pytestmark = pytest.mark.anyio


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
