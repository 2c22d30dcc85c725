"""The record of a job: its fields, its statuses, how its attempts end, and its conversion to and from a Redis hash."""

import json
import secrets
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from snf_client.schemas.base import JobType

DeviceKind = Literal["auto", "cpu", "cuda"]


class Queue(StrEnum):
    """Queues of jobs for training on the CPU, for training on a GPU, and for work with trained models."""

    TRAIN_CPU = "train-cpu"
    TRAIN_GPU = "train-gpu"
    SCORE = "score"


class Status(StrEnum):
    """Status of a background job, such as queued, running, succeeded or failed.

    Succeeded, partial, failed and cancelled are final. Partial is a scoring that could not judge every image.
    """

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


WITH_RESULT = frozenset({Status.SUCCEEDED, Status.PARTIAL})
TERMINAL = WITH_RESULT | {Status.FAILED, Status.CANCELLED}
ACTIVE = frozenset({Status.STARTING, Status.RUNNING})
SCORES, REPORT_JSON, REPORT_HTML = "scores.parquet", "report.json", "report.html"
RECOMMENDATION = "recommendation.json"
"""Files with the result in a job's folder: of a scoring, an evaluation and a recommendation."""


class RequestedAction(StrEnum):
    GO_ON = "go on"
    PAUSE = "pause"
    CANCEL = "cancel"


class StopReason(StrEnum):
    """Reason for a request to stop: users cancelled the job, or a later attempt will continue it."""

    CANCEL = "c"
    PREEMPT = "p"


class ExitCode(IntEnum):
    """Exit codes of an attempt. Any other means that the process died, and the attempt is repeated."""

    DONE = 0
    REFUSED = 65  # another attempt would fail as well; the last `error` event names the cause
    NO_ROOM = 74  # the disk takes no writes, perhaps not even that of an `error` event
    PREEMPTED = 75
    CANCELLED = 76
    STALE = 77  # a newer attempt owns the job


class Job(BaseModel):
    """Record of a background job; all times are UTC."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str  # ids sort by time of creation
    type: JobType = "train"
    origin: Literal["job", "command"] = "job"  # the service, or `snf train` on its machine
    queue: Queue = Queue.TRAIN_CPU  # that the job waits in; determines the device
    status: Status = Status.QUEUED
    model: str = ""  # name of the model that is trained, or name:version of the one used; empty without one
    device: str = "auto"  # as submitted; auto: a GPU if a worker has one
    dataset: str
    preset: str = ""  # of the architecture; empty unless a model is trained
    architecture: dict[str, Any] | None = None  # as submitted in place of a preset, whose name is then its own
    parameters: dict[str, Any] = {}  # as submitted
    promote: bool = False  # whether the new version becomes the live one
    created_at: datetime
    started_at: datetime | None = None  # start of the first attempt
    finished_at: datetime | None = None
    attempts: int = 0  # number of attempts started, which is the fencing token of the newest
    attempts_without_progress: int = 0  # attempts in a row that ended without a new checkpoint
    checkpoint_step: int | None = None  # of the newest checkpoint
    cancel_requested: bool = False
    pause_requested: bool = False
    caller: str = ""  # that submitted it, whose unfinished jobs are limited
    retry_of: str | None = None  # job that this job retries, from its checkpoint
    estimate: dict[str, Any] | None = None  # expected seconds and memory of the whole job
    progress: dict[str, Any] = {}  # step, steps, epoch, speed, ETA
    metrics: dict[str, Any] = {}  # latest value of each metric
    error: dict[str, Any] | None = None  # latest error: type, title, detail
    result: dict[str, Any] | None = None  # of a job that succeeded or is partial
    worker: str | None = None  # that holds the lease

    @property
    def finished(self) -> bool:
        return self.status in TERMINAL

    @property
    def output(self) -> str | None:
        """URL to which a scoring job writes its scores in parts; None for a table in the job's folder."""
        return self.parameters.get("output")

    @property
    def datasets(self) -> tuple[str, ...]:
        masks = self.parameters.get("masks") or {}
        return self.dataset, *(self.parameters.get("against") or ()), *masks.values()


_JSON_FIELDS = frozenset({"architecture", "parameters", "progress", "metrics", "error", "result", "estimate"})


def to_hash(fields: Mapping[str, Any]) -> dict[str, str]:
    """Convert fields to texts for a Redis hash: dictionaries as JSON, booleans as ``0`` or ``1``, without None."""
    encoded = {}
    for name, value in fields.items():
        if name in _JSON_FIELDS:
            encoded[name] = json.dumps(value, separators=(",", ":"))
        elif isinstance(value, bool):
            encoded[name] = str(int(value))
        elif value is not None:
            encoded[name] = str(value)
    return encoded


def from_hash(fields: Mapping[str, str]) -> Job:
    return Job.model_validate(
        {name: json.loads(value) if name in _JSON_FIELDS else value for name, value in fields.items()}
    )


class JobPage(NamedTuple):
    """One page of jobs, newest first; ``next`` is the cursor of the following page, or None."""

    jobs: list[Job]
    next: str | None


_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_id_lock = threading.Lock()
_last = [0, 0]


def new_job_id() -> str:
    """Return 26 characters from milliseconds and 80 random bits, which sort after earlier ids of this process."""
    with _id_lock:
        now = time.time_ns() // 1_000_000
        if now > _last[0]:
            _last[:] = [now, secrets.randbits(79)]
        else:
            # Same millisecond, or the clock went back: stay above the last id.
            _last[1] += 1 + secrets.randbits(32)
        number = (_last[0] << 80) | _last[1]
    digits = []
    for _ in range(26):
        number, digit = divmod(number, 32)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def new_job(**fields: Any) -> Job:
    return Job(id=new_job_id(), created_at=datetime.now(UTC), **fields)
