"""Shared capacity: what is admitted, whoever asks for it in whatever order."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from snf_app.http.admission import FairShares

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


@pytest.mark.parametrize("capacity", [2, 3, 4, 16, 1001])
def test_one_caller_alone_gets_half_and_newcomers_the_rest(capacity: int) -> None:
    shares = FairShares(capacity)
    while shares.take("greedy"):
        pass
    assert shares.held("greedy") == (capacity + 1) // 2
    newcomers = 0
    while shares.free:
        assert shares.take(f"newcomer {newcomers}"), "while a unit is free, one that holds none gets it"
        newcomers += 1
    assert newcomers == capacity // 2
    assert not shares.take("late")


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
