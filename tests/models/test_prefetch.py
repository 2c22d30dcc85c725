"""Prefetching yields the same items, computed early, in a thread that also closes the generator."""

import threading
import time
from collections.abc import Generator

import pytest

from snf_models.threads import prefetch


class Source:
    def __init__(self, count: int, failure: Exception | None = None) -> None:
        self.made = 0
        self.threads: set[int] = set()
        self.closed_in: int | None = None
        self._count = count
        self._failure = failure

    def items(self) -> Generator[int]:
        try:
            for number in range(self._count):
                self.threads.add(threading.get_ident())
                self.made += 1
                yield number
            if self._failure is not None:
                raise self._failure
        finally:
            self.closed_in = threading.get_ident()


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_everything_comes_in_order(count: int) -> None:
    source = Source(count)
    assert list(prefetch(source.items())) == list(range(count))
    assert source.threads <= {source.closed_in}
    assert threading.get_ident() not in source.threads


def test_items_are_made_before_they_are_asked_for_and_not_too_many() -> None:
    source = Source(100)
    found = prefetch(source.items(), 3)
    assert next(found) == 0
    deadline = time.monotonic() + 10
    while source.made < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert source.made == 4
    found.close()
    assert {source.closed_in} == source.threads


def test_what_fails_is_raised_after_what_came_before() -> None:
    found = prefetch(Source(2, ValueError("broken")).items())
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="broken"):
        next(found)
