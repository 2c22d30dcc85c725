"""Calls for jobs: submitting, following and controlling them, and reading their events and results."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import httpx
from httpx_sse import EventSource, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from snf_client.errors import ClientError, ServiceUnavailable, UnexpectedAnswer
from snf_client.schemas.base import JobType
from snf_client.schemas.calibrations import CalibrationParameters
from snf_client.schemas.evaluations import EvaluationParameters, EvaluationReport
from snf_client.schemas.jobs import (
    CalibrationResult,
    EstimatedJob,
    JobDatasets,
    JobList,
    JobRequest,
    JobResult,
    JobView,
    LimitResult,
    Previews,
    ScoringParameters,
)
from snf_client.schemas.limits import LimitParameters
from snf_client.schemas.recommendations import RecommendationRecord, RecommendParameters
from snf_client.schemas.training import TrainingConfig, TrainingCurve
from snf_client.transport import (
    AsyncTransport,
    Call,
    Resource,
    Retries,
    RetryWhen,
    S,
    SyncTransport,
    given_fields,
    may_retry,
    operation,
    path,
    query,
    read_bytes,
    read_json,
    read_nothing,
    read_text,
    unexpected,
)

SILENCE_S = 45.0  # silence after which a stream counts as lost; the service sends at least a comment every 15 s
MAX_LOST_CONNECTIONS = 12  # connections lost in a row without an event, after which reading ends: about five minutes
RECONNECTING = Retries(first_pause=1.0, longest_pause=30.0)
LONGEST_PAUSE_S = 60.0  # longest pause before a new connection in seconds, whatever time a service or proxy asks for
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


def polling(timeout: float | None) -> Callable[[JobView], float]:
    """Return a function of a job that gives the seconds to the next request, or raises ``TimeoutError`` at the end."""
    end = math.inf if timeout is None else time.monotonic() + timeout
    following = FIRST_POLL_S

    def pause(job: JobView) -> float:
        nonlocal following
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"job {job.id} is {job.status} after {timeout:g} s")
        now, following = following, min(LONGEST_POLL_S, 1.5 * following)
        return min(now, left)

    return pause


JobStatus: TypeAlias = Literal["queued", "starting", "running", "paused", "succeeded", "partial", "failed", "cancelled"]
AnyJobResult: TypeAlias = CalibrationResult | LimitResult | JobResult | EvaluationReport | RecommendationRecord
AnyParameters: TypeAlias = (
    TrainingConfig
    | ScoringParameters
    | CalibrationParameters
    | EvaluationParameters
    | LimitParameters
    | RecommendParameters
    | Mapping[str, Any]
)

FINISHED = frozenset({"succeeded", "partial", "failed", "cancelled"})
_RESULT: TypeAdapter[AnyJobResult] = TypeAdapter(AnyJobResult)


class _Jobs(Resource[S]):
    """Calls for jobs. The idempotency key of a submission, random by default, makes sure that repeats give one job."""

    @operation
    def submit(self, job: JobRequest | Mapping[str, Any], *, key: str | None = None) -> Call[JobView]:
        """Queue a job of any type, such as train, score or recommend; return its record with id and status."""
        return _submit(job, key)

    @operation
    def estimate(self, job: JobRequest | Mapping[str, Any]) -> Call[EstimatedJob]:
        """Return the queue of a job and, for a training, its expected time and memory, without submitting the job."""
        return Call("POST", path("jobs", "estimate"), read_json(EstimatedJob), body={"json": given_fields(job)})

    @operation
    def train(
        self,
        dataset: str,
        name: str,
        *,
        preset: str | None = None,
        architecture: dict[str, Any] | None = None,
        parameters: TrainingConfig | Mapping[str, Any] | None = None,
        promote: bool = False,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        force: bool = False,
        key: str | None = None,
    ) -> Call[JobView]:
        """Queue a job that trains a model on a dataset and stores it as a new version; return the job's record.

        Args:
            dataset: Dataset to train on.
            name: Name of the model; an existing model gets a new version.
            preset: Architecture, see ``Client.presets``; by default ``snf-glow-small``.
            architecture: Content of an architecture file, in place of a preset.
            parameters: Parameters of the training that differ from those of the preset.
            promote: Point the alias ``live`` at the new version, fit or not. The first fit version of a name needs no
                promotion.
            device: Device to train on; ``auto`` prefers a GPU.
            force: Queue the job even if it is expected to need more memory than any running worker has.
            key: Idempotency key of the submission.
        """
        # The service refuses a request with a preset and an architecture.
        chosen = {"preset": preset, "architecture": architecture}
        job: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        job |= {"promote": promote, "device": device, "force": force}
        return _submit(_job("train", dataset, name, parameters) | job, key)

    @operation
    def datasets(
        self, type: JobType, ref: str | None = None, *, parameters: AnyParameters | None = None
    ) -> Call[JobDatasets]:
        """Return every dataset with the reason why a job of this type would be refused with it, None if it would not.

        ``ref`` is the model; a training needs none. Nothing is queued.
        """
        draft = {"type": type, "parameters": given_fields(parameters)} | ({} if ref is None else {"model": ref})
        return Call("POST", path("jobs", "check-datasets"), read_json(JobDatasets), body={"json": draft})

    @operation
    def score(
        self,
        dataset: str,
        ref: str,
        *,
        parameters: ScoringParameters | Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Call[JobView]:
        """Queue a job that scores a dataset's images into a Parquet file for ``download``; return the job's record."""
        return _submit(_job("score", dataset, ref, parameters), key)

    @operation
    def evaluate(
        self,
        dataset: str,
        ref: str,
        *,
        parameters: EvaluationParameters | Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Call[JobView]:
        """Queue a job that measures how well a model tells a dataset's images from anomalies; return its record."""
        return _submit(_job("evaluate", dataset, ref, parameters), key)

    @operation
    def limit(
        self,
        dataset: str,
        ref: str,
        *,
        parameters: LimitParameters | Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Call[JobView]:
        """Queue a job that measures the smallest defects a model finds in a dataset's good images; return its record.

        Of the dataset that the model was trained on, only images that it has not used get defects.
        """
        return _submit(_job("limit", dataset, ref, parameters), key)

    @operation
    def recommend(
        self, dataset: str, *, parameters: RecommendParameters | Mapping[str, Any] | None = None, key: str | None = None
    ) -> Call[JobView]:
        """Queue a job that compares the families of models on a dataset and proposes one; return its record.

        Its result is a ``RecommendationRecord``. No model is registered.
        """
        return _submit(_job("recommend", dataset, None, parameters), key)

    @operation
    def list(
        self,
        *,
        status: JobStatus | None = None,
        type: JobType | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Call[JobList]:
        """Return up to ``limit`` (default 50) jobs, newest first; pass the result's ``next`` as ``after`` for more."""
        params = query(status=status, type=type, after=after, limit=limit)
        return Call("GET", path("jobs"), read_json(JobList), params=params)

    @operation
    def get(self, job_id: str) -> Call[JobView]:
        """Return the current record of a job: its status, progress, latest metrics, error and result."""
        return Call("GET", path("jobs", job_id), read_json(JobView))

    @operation
    def cancel(self, job_id: str) -> Call[JobView]:
        """Cancel a waiting job at once, or ask a running job to stop; return the job's record.

        Raises:
            Conflict: If the job is finished.
        """
        return _control(job_id, "cancel")

    @operation
    def pause(self, job_id: str) -> Call[JobView]:
        """Pause a waiting job at once, or a running job once it has saved a checkpoint; return the job's record.

        Raises:
            Conflict: If the job is finished or is being cancelled.
        """
        return _control(job_id, "pause")

    @operation
    def resume(self, job_id: str) -> Call[JobView]:
        """Queue a paused job before all waiting jobs, to continue from its checkpoint; return the job's record.

        Raises:
            Conflict: If the job is not paused.
        """
        return _control(job_id, "resume")

    @operation
    def retry(self, job_id: str) -> Call[JobView]:
        """Queue a failed or cancelled job anew, to continue from its last checkpoint; return the new job's record.

        Repeated calls return the same new job.
        """
        return Call("POST", path("jobs", job_id, "retry"), read_json(JobView))

    @operation
    def delete(self, job_id: str) -> Call[None]:
        """Delete a job that has ended, with its result and files; its model stays.

        Raises:
            Conflict: If the job has not ended, or an unfinished retry may need its checkpoints.
        """
        return Call("DELETE", path("jobs", job_id), read_nothing)

    @operation
    def metrics(self, job_id: str, *, points: int | None = None) -> Call[TrainingCurve]:
        """Return the metrics of a training job, such as bits per dimension, at up to ``points`` evenly spread steps."""
        return Call("GET", path("jobs", job_id, "metrics"), read_json(TrainingCurve), params=query(points=points))

    @operation
    def metrics_csv(self, job_id: str, *, points: int | None = None) -> Call[str]:
        """Return a training job's metrics as CSV text, with a header line and one row for each reported step."""
        return Call(
            "GET", path("jobs", job_id, "metrics"), read_text("text/csv"), params=query(points=points, format="csv")
        )

    @operation
    def log(self, job_id: str, *, tail: int | None = None) -> Call[str]:
        """Return the last lines that a job's processes printed, as text of at most ``tail`` lines (default 500)."""
        return Call("GET", path("jobs", job_id, "log"), read_text("text/plain"), params=query(tail=tail))

    @operation
    def previews(self, job_id: str) -> Call[Previews]:
        """Return the training steps at which sample images were drawn from the unfinished model, with their URLs."""
        return Call("GET", path("jobs", job_id, "samples"), read_json(Previews))

    @operation
    def preview(self, job_id: str, step: int) -> Call[bytes]:
        """Return the sample images drawn at a training step, as PNG bytes; raise ``NotFound`` for any other step."""
        return Call("GET", path("jobs", job_id, "samples", step), read_bytes("image/png"))

    @operation
    def result(self, job_id: str) -> Call[AnyJobResult]:
        """Return what a job made, such as a model version, limit or proposal; raise ``Conflict`` without one.

        The result of a scoring job is a file, see ``download``.

        Raises:
            Conflict: If the job has neither succeeded nor is partial (type ``job-has-no-result``).
        """
        return Call("GET", path("jobs", job_id, "result"), _read_result, params={"format": "json"})

    @operation
    def report_html(self, job_id: str) -> Call[str]:
        """Return an evaluation job's report as HTML text; raise ``Conflict`` if the job has not succeeded."""
        return Call("GET", path("jobs", job_id, "result"), read_text("text/html"), params={"format": "html"})

    @operation
    def download(self, job_id: str, target: str | Path) -> Call[Path]:
        """Download the Parquet file of a scoring job, one row per image, to ``target``; return ``target`` as a path.

        Raises:
            Conflict: If the job has neither succeeded nor is partial (type ``job-has-no-result``), or its files are at
                its output (``result-at-output``).
        """
        target = Path(target)
        return Call("GET", path("jobs", job_id, "result"), lambda _response: target, save_to=target)


class JobsResource(_Jobs[SyncTransport]):
    """API calls that submit, follow and control background jobs, such as the training of a model.

    Submissions are safe to repeat because each carries an idempotency key.
    """

    def events(self, job_id: str, *, after: str = "") -> Generator[Event]:
        """Yield the events of a job, such as status changes and progress, in order until it has ended.

        Each event is yielded once. If the connection is lost, the client connects again.

        Reading also continues across restarts of the service.

        >>> from snf_client import Client
        >>> def watch(job_id: str) -> None:
        ...     with Client() as client:
        ...         for event in client.jobs.events(job_id):
        ...             print(event.event, event.data)

        Args:
            job_id: The job.
            after: Id of an event; only later ones are yielded.
        """
        reader = JobEventReader(job_id, after, self._transport.retries)
        while not reader.over:
            lost: ClientError | None
            try:
                with self._transport.stream(reader.call()) as response:
                    if response.status_code != 204:
                        for message in EventSource(response).iter_sse():
                            if (event := reader.parse(message)) is not None:
                                yield event
                    lost = reader.end_of_stream(response.status_code)
            except ClientError as error:
                lost = error
            if lost is not None and not reader.over:
                self._transport.pause(reader.pause(lost))

    def wait(self, job_id: str, *, timeout: float | None = None) -> JobView:
        """Block until a job has ended, and return its final record with its status and result.

        The job may have succeeded or not.

        Raises:
            TimeoutError: If the job is not finished after ``timeout`` seconds.
        """
        pause = polling(timeout)
        while (job := self.get(job_id)).status not in FINISHED:
            self._transport.pause(pause(job))
        return job


class AsyncJobsResource(_Jobs[AsyncTransport]):
    """API calls for ``asyncio`` that submit, follow and control background jobs, as ``JobsResource`` does."""

    async def events(self, job_id: str, *, after: str = "") -> AsyncGenerator[Event]:
        """Yield the events of a job, such as status changes and progress, in order until it has ended.

        Each event is yielded once. The event loop is not blocked.
        """
        reader = JobEventReader(job_id, after, self._transport.retries)
        while not reader.over:
            lost: ClientError | None
            try:
                async with self._transport.stream(reader.call()) as response:
                    if response.status_code != 204:
                        async for message in EventSource(response).aiter_sse():
                            if (event := reader.parse(message)) is not None:
                                yield event
                    lost = reader.end_of_stream(response.status_code)
            except ClientError as error:
                lost = error
            if lost is not None and not reader.over:
                await self._transport.pause(reader.pause(lost))

    async def wait(self, job_id: str, *, timeout: float | None = None) -> JobView:
        """Wait without blocking until a job has ended; return its final record with its status and result.

        The job may have succeeded, failed or been cancelled.

        Raises:
            TimeoutError: If the job is not finished after ``timeout`` seconds.
        """
        pause = polling(timeout)
        while (job := await self.get(job_id)).status not in FINISHED:
            await self._transport.pause(pause(job))
        return job


def _job(type: JobType, dataset: str, model: str | None, parameters: AnyParameters | None) -> dict[str, Any]:
    """Return a request that is checked by the service alone, which may take more than this version of the client."""
    job = {"type": type, "dataset": dataset, "parameters": given_fields(parameters)}
    return job if model is None else job | {"model": model}


def _submit(job: JobRequest | Mapping[str, Any], key: str | None) -> Call[JobView]:
    headers = {"Idempotency-Key": key or uuid.uuid4().hex}
    return Call("POST", path("jobs"), read_json(JobView), headers=headers, body={"json": given_fields(job)})


def _control(job_id: str, verb: str) -> Call[JobView]:
    # A second request may be refused: a cancelled job cannot be cancelled.
    return Call("POST", path("jobs", job_id, verb), read_json(JobView), retry_when=RetryWhen.REFUSED)


def _read_result(response: httpx.Response) -> AnyJobResult:
    if "json" not in response.headers.get("content-type", ""):
        raise UnexpectedAnswer(f"{response.url} answered a file: fetch the result of this job with jobs.download")
    try:
        return _RESULT.validate_json(response.content)
    except ValidationError as error:
        raise unexpected(response, "job result", error) from error
