"""Shards of a bulk job on both servers: each is done, whoever dies meanwhile."""

import threading
import time

import pytest

from snf_worker.broker.connection import redis_client
from snf_worker.jobs.store import Shards
from snf_worker.settings import Settings


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shards(settings: Settings, served: None) -> Shards:
    return Shards(redis_client(settings), settings.key_prefix, "a-job")


def test_every_shard_goes_to_one_process(shards: Shards, settings: Settings) -> None:
    shards.offer(range(40))
    taken: list[int] = []

    def work() -> None:
        mine = Shards(redis_client(settings), settings.key_prefix, "a-job")
        while claim := mine.claim(30):
            taken.append(claim[0])
            mine.done(claim[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(40))
    assert shards.unfinished() == []


def test_a_claim_that_ends_is_taken_over_and_its_token_is_worth_nothing(shards: Shards) -> None:
    shards.offer([7])
    first = shards.claim(0.05)
    assert first is not None
    assert shards.claim(30) is None
    time.sleep(0.1)
    second = shards.claim(30)
    assert second is not None
    assert second[0] == first[0] == 7
    assert shards.renew(7, first[1], 30) is None
    assert shards.renew(7, second[1], 30) is not None


def test_a_renewed_claim_lasts_and_a_released_one_is_free_at_once(shards: Shards) -> None:
    shards.offer([1])
    claim = shards.claim(0.1)
    assert claim is not None
    token = shards.renew(1, claim[1], 30)
    assert token is not None
    time.sleep(0.15)
    assert shards.claim(30) is None
    shards.release(1, claim[1])
    assert shards.claim(30) is None, "an old token releases nothing"
    shards.release(1, token)
    assert shards.claim(30) is not None
    shards.done(1)
    assert shards.renew(1, token, 30) is None, "another process was quicker"


def test_offering_again_frees_no_claim(shards: Shards) -> None:
    shards.offer([1, 2])
    assert shards.claim(30) is not None
    shards.offer([1, 2])
    assert sorted(shards.unfinished()) == [1, 2]
    assert shards.claim(30) is not None
    assert shards.claim(30) is None
    shards.forget()
    assert shards.unfinished() == []
