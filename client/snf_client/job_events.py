"""Typed events of a job, a reader that survives lost connections and restarts, and polling of its state."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any, Literal

from httpx_sse import ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field

from snf_client.errors import ClientError, ServiceUnavailable
from snf_client.request import Call, path, read_nothing
from snf_client.retries import Retries, may_retry
from snf_client.schemas.jobs import JobView

SILENCE_S = 45.0
"""Silence after which a stream counts as lost; the service sends at least a comment every 15 s."""
MAX_LOST_CONNECTIONS = 12
"""Connections lost in a row without an event, after which reading ends: about five minutes."""
RECONNECTING = Retries(first_pause=1.0, longest_pause=30.0)
LONGEST_PAUSE_S = 60.0
"""Longest pause before a new connection in seconds, whatever time a service or proxy asks for."""
FIRST_POLL_S, LONGEST_POLL_S = 0.1, 2.0
"""Pauses between two requests for the state of a job that is waited for, seconds."""


class Event(BaseModel):
    """Base class of the events that the service reports about a job.

    Kinds that this client does not know have no class of their own. ``event`` is the kind. ``id`` is the position in
    the stream, from which reading can continue. ``data`` has all fields as the service sent them.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    event: str
    id: str
    data: dict[str, Any] = Field(repr=False)
    time: datetime | None = None
    attempt: int | None = None


class StateEvent(Event):
    """Event for a change of a job's status.

    ``status`` is the new status, such as "running".
    """

    event: Literal["state"]
    status: str
    worker: str | None = None


class StartedEvent(Event):
    """Event for the start of an attempt to run a job.

    ``steps`` is the number of steps in all, and ``step`` the number that are already done.
    """

    event: Literal["started"]
    step: int
    steps: int


class MetricsEvent(Event):
    """Event with numbers on the progress and the speed of a job.

    It has the steps done, images per second, seconds left, and in a training the bits per dimension.

    Metrics that are not finite are None.
    """

    event: Literal["metrics"]
    step: int
    steps: int
    bits_per_dim: float | None = None
    reconstruction_error: float | None = None
    images_per_second: float | None = None
    eta_seconds: float | None = None


class ValidationEvent(Event):
    """Event for a validation during a training.

    It has the bits per dimension (lower is better) of images from which the model does not learn.
    """

    event: Literal["validation"]
    step: int
    bits_per_dim: float | None = None


class LogEvent(Event):
    """Event with a message in words about what a job is doing, such as how many images it has prepared."""

    event: Literal["log"]
    message: str


class ErrorEvent(Event):
    """Event for a failed attempt to run a job: ``title`` is the kind of error, ``detail`` is what happened."""

    event: Literal["error"]
    title: str
    detail: str


class EndEvent(Event):
    """The last event of a job, with its status: ``succeeded``, ``partial``, ``failed`` or ``cancelled``."""

    event: Literal["end"]
    status: str


_EVENT_TYPES: dict[str, type[Event]] = {
    "state": StateEvent,
    "started": StartedEvent,
    "metrics": MetricsEvent,
    "validation": ValidationEvent,
    "log": LogEvent,
    "error": ErrorEvent,
    "end": EndEvent,
}


class JobEventReader:
    """Reader of a job's events after the id ``after``, which continues after lost connections."""

    def __init__(self, job_id: str, after: str, retries: Retries) -> None:
        self.over = False
        self._path = path("jobs", job_id, "events")
        self._last_id = after
        self._contacted = bool(after)
        self._lost_connections = 0
        self._retries = retries

    def call(self) -> Call[None]:
        """Return the unsent request for the events after the last one that was parsed."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._last_id} if self._last_id else {})
        return Call("GET", self._path, read_nothing, headers=headers, read_timeout_s=SILENCE_S)

    def parse(self, message: ServerSentEvent) -> Event | None:
        """Parse a message and keep its id; return None for one without data."""
        if not message.data:
            return None
        self._last_id, self._lost_connections, self._contacted = message.id, 0, True
        self.over = message.event == "end"
        data = message.json()
        known = {"event": message.event, "id": message.id, "data": data}
        return _EVENT_TYPES.get(message.event, Event).model_validate(data | known)

    def end_of_stream(self, status: int) -> ServiceUnavailable | None:
        """Return an error if the stream stopped before ``end``; status 204 means that there is no more."""
        if status == 204:
            self.over = True
        return None if self.over else ServiceUnavailable("the service ended the stream of events", sent=True)

    def pause(self, error: ClientError) -> float:
        """Return the seconds before reconnecting, or raise ``error`` if that is of no use or was tried too often."""
        self._lost_connections += 1
        call = self.call()
        policy, limit = RECONNECTING, MAX_LOST_CONNECTIONS
        if not self._contacted:
            policy, limit = self._retries, self._retries.attempts_before_contact - 1
        if not may_retry(call.retry_when, error) or self._lost_connections > limit:
            raise error
        seconds = min(policy.pause(error, self._lost_connections), LONGEST_PAUSE_S)
        if self._retries.on_retry is not None:
            self._retries.on_retry(error, seconds)
        return seconds


class JobPolling:
    """Pauses between requests for a job's status, from 0.1 to 2 seconds, with a time limit if any."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout
        self._next = FIRST_POLL_S

    def pause(self, job: JobView) -> float:
        """Return the seconds until the next request; raise ``TimeoutError`` at the time limit."""
        left = LONGEST_POLL_S if self._end is None else self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"job {job.id} is {job.status} after {self._timeout:g} s")
        pause = min(self._next, left)
        self._next = min(LONGEST_POLL_S, 1.5 * self._next)
        return pause
