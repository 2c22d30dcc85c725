"""Retries of failed calls: which calls are sent again, how often, and after which pause."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tenacity import RetryCallState, retry_if_exception, stop_before_delay
from tenacity.stop import stop_base

from snf_client.errors import ClientError, ProblemError, ServiceUnavailable
from snf_client.request import Call, RetryWhen

REFUSALS = frozenset({429, 503})
"""Statuses of a service that has not done the call: it is overloaded, is stopping, or has lost its job broker."""
BAD_GATEWAY = 502
"""Status of a proxy whose service is restarting; the service may have done the call."""

OnRetry = Callable[[ClientError, float], None]


@dataclass(frozen=True)
class Retries:
    """Settings for repeating failed requests: how often, for how long, and after which pauses.

    By default there are at most 10 attempts, within 60 seconds.

    A pause doubles after every failure, from ``first_pause`` up to ``longest_pause``. A random part of it is left out,
    so that many clients do not come back at the same moment. A ``Retry-After`` header of the service takes precedence.

    Args:
        attempts: Attempts in all.
        seconds: Time within which all attempts start.
        attempts_before_contact: Attempts in all while the service has never answered this client: its address may be
            wrong.
        first_pause: Pause after the first failure, seconds.
        longest_pause: Longest pause, seconds.
        on_retry: Function that is called before each pause with the error and the pause in seconds.
    """

    attempts: int = 10
    seconds: float = 60.0
    attempts_before_contact: int = 4
    first_pause: float = 0.25
    longest_pause: float = 10.0
    on_retry: OnRetry | None = None

    def pause(self, error: BaseException | None, failures: int) -> float:
        """Return the seconds before the next attempt, by ``Retry-After`` or doubled with every failure."""
        retry_after = error.retry_after if isinstance(error, ProblemError) else None
        if retry_after is not None:
            return retry_after * random.uniform(1.0, 1.2)  # noqa: S311 - nothing secret
        whole: float = min(self.longest_pause, self.first_pause * 2.0 ** (failures - 1))
        return whole * random.uniform(0.5, 1.0)  # noqa: S311 - nothing secret

    def max_attempts(self, *, contacted: bool) -> int:
        """Return the most attempts, fewer while the service has never answered."""
        return self.attempts if contacted else min(self.attempts, self.attempts_before_contact)

    def tenacity_options(self, call: Call[Any], contacted: Callable[[], bool]) -> dict[str, Any]:
        """Return the keyword arguments that make tenacity's ``Retrying`` classes follow these retry settings."""
        return {
            "retry": retry_if_exception(lambda error: may_retry(call.retry_when, error)),
            "stop": stop_before_delay(self.seconds) | _StopAfter(lambda: self.max_attempts(contacted=contacted())),
            "wait": self._wait,
            "before_sleep": self._before_sleep,
            "reraise": True,
        }

    def _wait(self, state: RetryCallState) -> float:
        return self.pause(_error(state), state.attempt_number)

    def _before_sleep(self, state: RetryCallState) -> None:
        error = _error(state)
        if self.on_retry is not None and isinstance(error, ClientError):
            self.on_retry(error, state.upcoming_sleep)


class _StopAfter(stop_base):
    """Condition of tenacity that stops after a number of attempts, which may change between attempts."""

    def __init__(self, max_attempts: Callable[[], int]) -> None:
        self._max_attempts = max_attempts

    def __call__(self, retry_state: RetryCallState) -> bool:
        return retry_state.attempt_number >= self._max_attempts()


def may_retry(retry_when: RetryWhen, error: BaseException) -> bool:
    """Return whether a request may be sent again after a lost connection or HTTP 429, 502 or 503."""
    if may_be_done(error):
        return retry_when is RetryWhen.ALWAYS
    match error:
        case ServiceUnavailable():
            return True
        case ProblemError(status=status):
            return retry_when is not RetryWhen.UNSENT and status in REFUSALS
    return False


def may_be_done(error: BaseException) -> bool:
    """Return whether the service may have done a request: its response was lost, or a proxy answered 502."""
    match error:
        case ServiceUnavailable(sent=sent):
            return sent
        case ProblemError(status=status):
            return status == BAD_GATEWAY
    return False


def _error(state: RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()
