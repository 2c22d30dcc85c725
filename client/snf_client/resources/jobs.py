"""Calls about jobs: submitting, following, steering and reading what they made."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import httpx
from httpx_sse import EventSource
from pydantic import TypeAdapter, ValidationError

from app.jobs.schemas import (
    CalibrationResult,
    EstimatedJob,
    JobList,
    JobRequest,
    JobResult,
    JobView,
    Previews,
    TrainingCurve,
)
from models.evaluation.schema import EvaluationReport
from snf_client.errors import ClientError, UnexpectedAnswer
from snf_client.job_events import Event, Following
from snf_client.request import Call, Repeat, content, given, model, path, text
from snf_client.transport import AsyncSender, Group, S, SyncSender, operation

Status = Literal["queued", "starting", "running", "paused", "succeeded", "failed", "cancelled"]
Kind = Literal["train", "score", "calibrate", "evaluate"]
Device = Literal["auto", "cpu", "cuda"]
Result: TypeAlias = CalibrationResult | JobResult | EvaluationReport

OVER = frozenset({"succeeded", "failed", "cancelled"})
FIRST_LOOK_S, LONGEST_LOOK_S = 0.1, 2.0
"""Pauses between two looks at a job that is waited for."""
_RESULT: TypeAdapter[Result] = TypeAdapter(Result)


class _Jobs(Group[S]):
    """Jobs of the service.

    Submitting is repeated like any other call: a key that goes with it, made here unless given, keeps it one job.
    """

    @operation
    def submit(self, job: JobRequest, *, key: str | None = None) -> Call[JobView]:
        """Queues any job."""
        return _submit(job, key)

    @operation
    def estimate(self, job: JobRequest) -> Call[EstimatedJob]:
        """What a job would take; queues nothing."""
        return Call("POST", path("jobs", "estimate"), model(EstimatedJob), body=_body(job))

    @operation
    def train(
        self,
        dataset: str,
        name: str,
        *,
        preset: str = "snf-glow-small",
        parameters: dict[str, Any] | None = None,
        promote: bool = False,
        device: Device = "auto",
        force: bool = False,
        key: str | None = None,
    ) -> Call[JobView]:
        """Queue the training of a model that is registered as `name`.

        One that is not expected to fit into the memory of any running worker is refused unless `force`.
        """
        job = JobRequest(
            type="train",
            dataset=dataset,
            model=name,
            preset=preset,
            parameters=parameters or {},
            promote=promote,
            device=device,
            force=force,
        )
        return _submit(job, key)

    @operation
    def score(
        self, dataset: str, ref: str, *, parameters: dict[str, Any] | None = None, key: str | None = None
    ) -> Call[JobView]:
        """Queues the scoring of every image of a dataset; `download` fetches its Parquet file."""
        return _submit(JobRequest(type="score", dataset=dataset, model=ref, parameters=parameters or {}), key)

    @operation
    def calibrate(
        self, dataset: str, ref: str, *, parameters: dict[str, Any] | None = None, key: str | None = None
    ) -> Call[JobView]:
        """Queues the calibration of a model on other images."""
        return _submit(JobRequest(type="calibrate", dataset=dataset, model=ref, parameters=parameters or {}), key)

    @operation
    def evaluate(
        self, dataset: str, ref: str, *, parameters: dict[str, Any] | None = None, key: str | None = None
    ) -> Call[JobView]:
        """Queues an evaluation: how well a model tells the images of `dataset` from others."""
        return _submit(JobRequest(type="evaluate", dataset=dataset, model=ref, parameters=parameters or {}), key)

    @operation
    def list(
        self,
        *,
        status: Status | None = None,
        type: Kind | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Call[JobList]:
        """A page of jobs, newest first; its `next` is `after` of the page that follows."""
        params = given(status=status, type=type, after=after, limit=limit)
        return Call("GET", path("jobs"), model(JobList), params=params)

    @operation
    def get(self, job_id: str) -> Call[JobView]:
        """A job as it stands."""
        return Call("GET", path("jobs", job_id), model(JobView))

    @operation
    def cancel(self, job_id: str) -> Call[JobView]:
        """Cancels a job; raises `Conflict` where it is over."""
        return _steer(job_id, "cancel")

    @operation
    def pause(self, job_id: str) -> Call[JobView]:
        """Pauses a job; a running one writes a checkpoint first."""
        return _steer(job_id, "pause")

    @operation
    def resume(self, job_id: str) -> Call[JobView]:
        """Lets a paused job go on from its checkpoint."""
        return _steer(job_id, "resume")

    @operation
    def retry(self, job_id: str) -> Call[JobView]:
        """Queues a failed or cancelled job anew; asking twice answers the same new job."""
        return Call("POST", path("jobs", job_id, "retry"), model(JobView))

    @operation
    def metrics(self, job_id: str, *, points: int | None = None) -> Call[TrainingCurve]:
        """The training curve, thinned out to `points` where that is given."""
        return Call("GET", path("jobs", job_id, "metrics"), model(TrainingCurve), params=given(points=points))

    @operation
    def metrics_csv(self, job_id: str, *, points: int | None = None) -> Call[str]:
        """The training curve as a table, one row a step."""
        return Call("GET", path("jobs", job_id, "metrics"), text, params=given(points=points, format="csv"))

    @operation
    def log(self, job_id: str, *, tail: int | None = None) -> Call[str]:
        """The end of what the job's processes printed, at most `tail` bytes."""
        return Call("GET", path("jobs", job_id, "log"), text, params=given(tail=tail))

    @operation
    def previews(self, job_id: str) -> Call[Previews]:
        """The steps of a training at which samples were drawn."""
        return Call("GET", path("jobs", job_id, "samples"), model(Previews))

    @operation
    def preview(self, job_id: str, step: int) -> Call[bytes]:
        """The samples of one step, a PNG."""
        return Call("GET", path("jobs", job_id, "samples", step), content)

    @operation
    def result(self, job_id: str) -> Call[Result]:
        """The model version, calibration or report that a job made; raises `Conflict` before it has succeeded.

        The result of a scoring is a file, see `download`.
        """
        return Call("GET", path("jobs", job_id, "result"), _result, params={"format": "json"})

    @operation
    def report_html(self, job_id: str) -> Call[str]:
        """The report of an evaluation as a page."""
        return Call("GET", path("jobs", job_id, "result"), text, params={"format": "html"})


class Jobs(_Jobs[SyncSender]):
    """Jobs of the service."""

    def events(self, job_id: str, *, after: str = "") -> Generator[Event]:
        """The events of a job, each once, from the first or the one after the id `after`, until it is over.

        A lost connection is made again where it broke off, across restarts of the service.

        >>> from snf_client import Client
        >>> def watch(job_id: str) -> None:
        ...     with Client() as client:
        ...         for event in client.jobs.events(job_id):
        ...             print(event.event, event.data)
        """
        following = Following(job_id, after, self._sender.retries)
        while not following.over:
            lost: ClientError | None
            try:
                with self._sender.stream(following.call()) as response:
                    if response.status_code != 204:
                        for told in EventSource(response).iter_sse():
                            if (event := following.take(told)) is not None:
                                yield event
                    lost = following.ended(response.status_code)
            except ClientError as error:
                lost = error
            if lost is not None and not following.over:
                self._sender.pause(following.pause(lost))

    def wait(self, job_id: str, *, timeout: float | None = None) -> JobView:
        """The job once it is over, however it ended; raises `TimeoutError` after `timeout` seconds."""
        looks = _Looks(timeout)
        while (job := self.get(job_id)).status not in OVER:
            self._sender.pause(looks.pause(job))
        return job

    def download(self, job_id: str, target: str | Path) -> Path:
        """Writes the Parquet file of a job that scored a dataset."""
        return self._sender.download(_file(job_id), Path(target))


class AsyncJobs(_Jobs[AsyncSender]):
    """Jobs of the service."""

    async def events(self, job_id: str, *, after: str = "") -> AsyncGenerator[Event]:
        """The events of a job, each once, until it is over; see `Jobs.events`."""
        following = Following(job_id, after, self._sender.retries)
        while not following.over:
            lost: ClientError | None
            try:
                async with self._sender.stream(following.call()) as response:
                    if response.status_code != 204:
                        async for told in EventSource(response).aiter_sse():
                            if (event := following.take(told)) is not None:
                                yield event
                    lost = following.ended(response.status_code)
            except ClientError as error:
                lost = error
            if lost is not None and not following.over:
                await self._sender.pause(following.pause(lost))

    async def wait(self, job_id: str, *, timeout: float | None = None) -> JobView:
        """The job once it is over, however it ended; raises `TimeoutError` after `timeout` seconds."""
        looks = _Looks(timeout)
        while (job := await self.get(job_id)).status not in OVER:
            await self._sender.pause(looks.pause(job))
        return job

    async def download(self, job_id: str, target: str | Path) -> Path:
        """Writes the Parquet file of a job that scored a dataset."""
        return await self._sender.download(_file(job_id), Path(target))


class _Looks:
    """How long until the next look at a job that is waited for."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout
        self._next = FIRST_LOOK_S

    def pause(self, job: JobView) -> float:
        left = LONGEST_LOOK_S if self._end is None else self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"job {job.id} is {job.status} after {self._timeout:g} s")
        found = min(self._next, left)
        self._next = min(LONGEST_LOOK_S, 1.5 * self._next)
        return found


def _submit(job: JobRequest, key: str | None) -> Call[JobView]:
    return Call(
        "POST",
        path("jobs"),
        model(JobView),
        headers={"Idempotency-Key": key or uuid.uuid4().hex},
        body=_body(job),
    )


def _body(job: JobRequest) -> dict[str, Any]:
    # What was not asked for is not sent: a job of another type has no preset.
    return {"json": job.model_dump(mode="json", exclude_unset=True)}


def _steer(job_id: str, verb: str) -> Call[JobView]:
    # Done twice it may be refused the second time: a job that was cancelled cannot be cancelled.
    return Call("POST", path("jobs", job_id, verb), model(JobView), repeat=Repeat.REFUSED)


def _file(job_id: str) -> Call[bytes]:
    return Call("GET", path("jobs", job_id, "result"), content)


def _result(response: httpx.Response) -> Result:
    if "json" not in response.headers.get("content-type", ""):
        raise UnexpectedAnswer(f"{response.url} answered a file: this job's result is for `jobs.download`")
    try:
        return _RESULT.validate_json(response.content)
    except ValidationError as error:
        raise UnexpectedAnswer(f"{response.url} answered no result: {error}") from error
