"""When and how long after a call is sent again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tenacity import RetryCallState, retry_if_exception, stop_before_delay
from tenacity.stop import stop_base

from snf_client.errors import ClientError, ProblemError, ServiceUnavailable
from snf_client.request import Call, Repeat

NOT_DONE = frozenset({429, 503})
"""Statuses of a service that has not done what it was asked: it has too much to do, is stopping or lacks its broker."""
PROXY = 502
"""What a proxy answers while the service behind it restarts; the call may have been done."""

Told = Callable[[ClientError, float], None]


@dataclass(frozen=True)
class Retries:
    """Limits of repeating: `attempts` in all, begun within `seconds` of the first.

    A service that has never answered this client is tried `strangers` times at most: its address may be wrong.
    The pause doubles from `first_pause` seconds to `longest_pause` at most, and a random part of it is left out, so
    that clients do not come back together. A service that says how long to wait is obeyed. `told` hears of every
    failed attempt that is followed by another, and of the pause in seconds.
    """

    attempts: int = 10
    seconds: float = 60.0
    strangers: int = 4
    first_pause: float = 0.25
    longest_pause: float = 10.0
    told: Told | None = None

    def pause(self, error: BaseException | None, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        asked = error.retry_after if isinstance(error, ProblemError) else None
        if asked is not None:
            return asked * random.uniform(1.0, 1.2)  # noqa: S311 - nothing secret
        whole: float = min(self.longest_pause, self.first_pause * 2.0 ** (failures - 1))
        return whole * random.uniform(0.5, 1.0)  # noqa: S311 - nothing secret

    def most(self, *, heard: bool) -> int:
        """Attempts in all, by whether the service has ever answered."""
        return self.attempts if heard else min(self.attempts, self.strangers)

    def arguments(self, call: Call[Any], heard: Callable[[], bool]) -> dict[str, Any]:
        """What tenacity is told about a call, alike for threads and for an event loop."""
        return {
            "retry": retry_if_exception(lambda error: may_repeat(call.repeat, error)),
            "stop": stop_before_delay(self.seconds) | _Enough(lambda: self.most(heard=heard())),
            "wait": self._wait,
            "before_sleep": self._before_sleep,
            "reraise": True,
        }

    def _wait(self, state: RetryCallState) -> float:
        return self.pause(_error(state), state.attempt_number)

    def _before_sleep(self, state: RetryCallState) -> None:
        error = _error(state)
        if self.told is not None and isinstance(error, ClientError):
            self.told(error, state.upcoming_sleep)


class _Enough(stop_base):
    """Ends after so many attempts as are then due."""

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most

    def __call__(self, retry_state: RetryCallState) -> bool:
        return retry_state.attempt_number >= self._most()


def may_repeat(repeat: Repeat, error: BaseException) -> bool:
    """Whether a call may be sent again after an error."""
    if may_be_done(error):
        return repeat is Repeat.HARMLESS
    match error:
        case ServiceUnavailable():
            return True
        case ProblemError(status=status):
            return repeat is not Repeat.UNSENT and status in NOT_DONE
    return False


def may_be_done(error: BaseException) -> bool:
    """Whether the service may have done what it was asked, though its answer was lost on the way."""
    match error:
        case ServiceUnavailable(sent=sent):
            return sent
        case ProblemError(status=status):
            return status == PROXY
    return False


def _error(state: RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()
