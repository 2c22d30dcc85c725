"""What happens to a job, as typed events, each once, across lost connections and restarts of the service."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from httpx_sse import ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field

from snf_client.errors import ClientError, ServiceUnavailable
from snf_client.request import Call, nothing, path
from snf_client.retries import Retries, may_repeat

SILENCE_S = 45.0
"""Time without a word after which a stream is lost; the service says something every 15 s."""
MOST_LOSSES = 12
"""Connections lost in a row, without an event, before following ends: about five minutes."""
PAUSES = Retries(first_pause=1.0, longest_pause=30.0)


class Event(BaseModel):
    """One event: its kind, its id to go on after, when it happened, and all it says as `data`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    event: str
    id: str
    data: dict[str, Any] = Field(repr=False)
    time: datetime | None = None
    attempt: int | None = None


class State(Event):
    """The job's state changed."""

    event: Literal["state"]
    status: str
    worker: str | None = None


class Started(Event):
    """A training began, or went on from a checkpoint."""

    event: Literal["started"]
    step: int
    steps: int


class Metrics(Event):
    """Progress; what a training measures, or null where a number was not finite."""

    event: Literal["metrics"]
    step: int
    steps: int
    bits_per_dim: float | None = None
    reconstruction_error: float | None = None
    images_per_second: float | None = None
    eta_seconds: float | None = None


class Validation(Event):
    """A validation of a training."""

    event: Literal["validation"]
    step: int
    bits_per_dim: float | None = None


class Log(Event):
    """A message for people."""

    event: Literal["log"]
    message: str


class Failure(Event):
    """Why an attempt failed."""

    event: Literal["error"]
    title: str
    detail: str


class End(Event):
    """The job is over: `succeeded`, `failed` or `cancelled`. The last event."""

    event: Literal["end"]
    status: str


_KINDS: dict[str, type[Event]] = {
    "state": State,
    "started": Started,
    "metrics": Metrics,
    "validation": Validation,
    "log": Log,
    "error": Failure,
    "end": End,
}


class Following:
    """Where a reader of a job's events stands, and what it does when its stream is lost."""

    def __init__(self, job_id: str, after: str, retries: Retries) -> None:
        self.over = False
        self._path = path("jobs", job_id, "events")
        self._last_id = after
        self._heard = bool(after)
        self._losses = 0
        self._retries = retries

    def call(self) -> Call[None]:
        """The request for what follows the last event."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._last_id} if self._last_id else {})
        return Call("GET", self._path, nothing, headers=headers, read_s=SILENCE_S)

    def take(self, told: ServerSentEvent) -> Event | None:
        """The event of what the stream said; None where that was only when to come back."""
        if not told.data:
            return None
        self._last_id, self._losses, self._heard = told.id, 0, True
        self.over = told.event == "end"
        data = told.json()
        return _KINDS.get(told.event, Event).model_validate({**data, "event": told.event, "id": told.id, "data": data})

    def ended(self, status: int) -> ServiceUnavailable | None:
        """What the end of a stream means: nothing is to come (204), or it was lost."""
        if status == 204:
            self.over = True
        return None if self.over else ServiceUnavailable("the service ended the stream", sent=True)

    def pause(self, error: ClientError) -> float:
        """Seconds to wait before coming back; raises the error where that is of no use, or was tried often enough.

        A service that never answered is tried as often as any call, one that did for about five minutes.
        """
        self._losses += 1
        call = self.call()
        policy, most = (PAUSES, MOST_LOSSES) if self._heard else (self._retries, self._retries.strangers - 1)
        if not may_repeat(call.repeat, error) or self._losses > most:
            raise error
        seconds = policy.pause(error, self._losses)
        if self._retries.told is not None:
            self._retries.told(error, seconds)
        return seconds
