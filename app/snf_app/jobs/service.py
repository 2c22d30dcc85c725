"""Jobs over HTTP: their submission, the answers about them, and the watch over the job store."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery  # type: ignore[import-untyped]
from starlette.types import Scope

from snf_app.access.permissions import caller_of, require
from snf_app.http.errors import Problem, invalid
from snf_app.jobs.checks import JobChecks
from snf_client.schemas.base import JobType
from snf_client.schemas.jobs import Estimate, JobRequest, JobView
from snf_client.schemas.training import MAX_MINUTES, CurvePoint, Validation
from snf_models.disk import locked, require_room, usable_bytes
from snf_models.naming import is_name
from snf_models.pipeline.presets import ExpectedRanks
from snf_worker.errors import BrokerDown
from snf_worker.jobs.events import CurveEvents, thin
from snf_worker.jobs.measured import MeasuredTraining, MeasuredTrainings, kind_of_training
from snf_worker.jobs.record import DeviceKind, Job, Queue, Status, new_job
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import ROOM_BYTES, fingerprint_of, resume, retry, submit, training_queue
from snf_worker.process_setup import PeriodicThread
from snf_worker.runtime.machine import WorkerInfo, WorkerRegistry
from snf_worker.runtime.reconciler import remove_job


@dataclass(frozen=True)
class JobPlan:
    """Where a checked job would run; ``preset`` is a training's preset or architecture, "" for other jobs."""

    model: str
    queue: Queue
    workers: int
    estimate: Estimate | None
    calibration: int | None = None
    preset: str = ""


def require_feasible(plan: JobPlan) -> None:
    """Raise 422 for a training that an earlier one shows to take over two weeks, or more than every worker's memory."""
    estimate = plan.estimate
    if estimate is None:
        return
    if estimate.seconds is not None and estimate.seconds > 60 * MAX_MINUTES:
        days = estimate.seconds / 86_400
        long = f"{days:.0f} days" if days < 1000 else f"{days / 365.25:,.0f} years"
        raise Problem(
            "too-long-expected",
            f"it is expected to take {long}; expected at most {MAX_MINUTES // 1440} days. Fewer steps, a smaller "
            'preset or max_minutes take less; "force": true queues it all the same',
            extensions={"seconds": estimate.seconds, "available_seconds": 60 * MAX_MINUTES},
        )
    if estimate.fits is not False:
        return
    raise Problem(
        "out-of-memory-expected",
        f"it is expected to need {estimate.memory_bytes} bytes; expected at most {estimate.available_bytes}, the most "
        f"that a running worker of {plan.queue} gives a training. A smaller batch_size or preset needs less; "
        '"force": true queues it all the same',
        extensions={"memory_bytes": estimate.memory_bytes, "available_bytes": estimate.available_bytes},
    )


@dataclass(frozen=True)
class JobService(JobChecks):
    """Checks of a caller's role and of job requests, then queueing. Methods block and raise ``BrokerDown``."""

    jobs: JobStore
    celery: Celery
    workers: WorkerRegistry
    trainings: MeasuredTrainings

    def plan(self, request: JobRequest) -> JobPlan:
        """Check that a job can succeed, without queueing it; raise 422."""
        if request.type == "train":
            return self._plan_training(request)
        if request.type == "recommend":
            self.check_recommendation(request)
            return JobPlan("", Queue.TRAIN_CPU, len(_serving(Queue.TRAIN_CPU, self.workers.workers())), None)
        model, calibration = self.check_model_job(request)
        return JobPlan(model, Queue.SCORE, len(_serving(Queue.SCORE, self.workers.workers())), None, calibration)

    def _plan_training(self, request: JobRequest) -> JobPlan:
        if not is_name(request.model):
            raise invalid("/body/model", f"{request.model!r} is not a name; a new version is numbered by itself")
        recipe, architecture, config, dataset = self.check_training(request)
        closed_form = architecture.kind == "feature_density"
        if closed_form and request.device == "cuda":
            raise invalid("/body/device", f"{request.preset} is fitted in closed form, on a CPU")
        running = self.workers.workers()
        queue = Queue.TRAIN_CPU if closed_form else training_queue(request.device, running)
        device: DeviceKind = "cuda" if queue is Queue.TRAIN_GPU else "cpu"
        serving = _serving(queue, running)
        memories = [_memory_for_training(worker, queue) for worker in serving]
        available = max((memory for memory in memories if memory is not None), default=None)
        ranks = ExpectedRanks.of(architecture, config, dataset)
        measured = self.trainings.latest(kind_of_training(architecture, config, device))
        seconds = math.inf if measured is None else measured.seconds(config.max_steps, dataset.images)
        if config.max_minutes is not None:
            seconds = min(seconds, 60 * config.max_minutes)
        estimate = Estimate(
            seconds=seconds if math.isfinite(seconds) else None,
            memory_bytes=None if measured is None else measured.memory_bytes,
            fits=_fits(measured, dataset.images, available),
            available_bytes=available,
            ranked_images=ranks.images,
            smallest_alpha=ranks.smallest_alpha,
            images_for_default=ranks.images_for_default,
        )
        return JobPlan(request.model, queue, len(serving), estimate, preset=recipe.name)

    def submit(self, request: JobRequest, scope: Scope, idempotency_key: str | None) -> Job:
        """Check and queue a job; a repeated key returns the earlier one; raise 403, 422 or ``TooManyJobs``."""
        _require_role(scope, promote=request.promote, type=request.type, parameters=request.parameters)
        # Without an absent architecture, so that keys of earlier versions still belong to their requests.
        left_out = {"force"} | ({"architecture"} if request.architecture is None else set())
        fingerprint = fingerprint_of(request.model_dump(mode="json", exclude=left_out))
        if idempotency_key is not None:
            idempotency_key = _own(idempotency_key, scope)
        known = None if idempotency_key is None else self.jobs.find_by_idempotency_key(idempotency_key, fingerprint)
        if known is not None:
            # Not checked again: its model or dataset may have been changed or deleted since.
            return known
        self._require_room()
        # From the check to the record, so that nothing that the job uses is deleted between the two.
        with locked(self.settings.jobs_dir, shared=True):
            return self._submit(request, caller_of(scope).name, idempotency_key, fingerprint)

    def _submit(self, request: JobRequest, caller: str, idempotency_key: str | None, fingerprint: str) -> Job:
        plan = self.plan(request)
        if not request.force:
            require_feasible(plan)
        pinned = {} if plan.calibration is None else {"calibration": plan.calibration}
        job = new_job(
            type=request.type,
            queue=plan.queue,
            model=plan.model,
            dataset=request.dataset,
            preset=plan.preset,
            architecture=request.architecture,
            parameters=request.parameters | pinned,
            promote=request.promote,
            device=request.device,
            estimate=plan.estimate.model_dump() if plan.estimate else None,
            caller=caller,
        )
        return submit(self.jobs, self.celery, job, idempotency_key, fingerprint)

    def resume(self, job_id: str) -> Job:
        """Queue a paused job again, ahead of the jobs that have not run yet; raise ``JobConflict``."""
        return resume(self.jobs, self.celery, job_id)

    def retry(self, job_id: str, scope: Scope) -> Job:
        """Queue a failed or cancelled job as a new one; a repeated call returns it, also on a full disk."""
        job = self.jobs.get(job_id)
        _require_role(scope, promote=job.promote, type=job.type, parameters=job.parameters)
        return retry(self.jobs, self.celery, job_id, caller_of(scope).name, before_new=self._require_room)

    def delete(self, job_id: str) -> None:
        """Delete the record and the files of a job; raise ``JobConflict`` or ``JobInUse``."""
        remove_job(self.jobs, self.settings, job_id)

    def _require_room(self) -> None:
        require_room(self.settings.home, ROOM_BYTES)


def _serving(queue: Queue, running: list[WorkerInfo]) -> list[WorkerInfo]:
    return [worker for worker in running if queue in worker.queues]


def _fits(measured: MeasuredTraining | None, images: int, available: int | None) -> bool | None:
    """Return whether a training fits into memory; None if no training of its kind with as many images has shown it."""
    if measured is None or available is None:
        return None
    if measured.memory_bytes <= available:
        return True if images <= measured.images else None
    return False if images >= measured.images else None


def _memory_for_training(worker: WorkerInfo, queue: Queue) -> int | None:
    """Return the most memory in bytes that a worker gives a training; None if it is not known."""
    if worker.train_memory_bytes is not None:
        return worker.train_memory_bytes
    # The memory of the machine says nothing of what a GPU has, nor of what a training on it takes.
    return None if queue is Queue.TRAIN_GPU else worker.memory_bytes


def _own(idempotency_key: str, scope: Scope) -> str:
    """Return an idempotency key of its caller; without API keys all callers are one, as addresses may change."""
    caller = caller_of(scope)
    # No header contains a line break, so keys of different callers are never equal.
    return idempotency_key if caller.key is None else f"{caller.key}\n{idempotency_key}"


def _require_role(scope: Scope, *, promote: bool, type: JobType, parameters: Mapping[str, Any]) -> None:
    """Raise a 403 error if a job would replace the served model or calibration and its caller is no admin."""
    if promote:
        require(scope, "admin", "a job that makes its model live ('promote': true)")
    if type == "calibrate" and parameters.get("activate") is not False:
        require(scope, "admin", "a calibration that goes into use by itself (all without 'activate': false)")


NO_WORKER = {
    Queue.TRAIN_GPU: "waits for a worker with a GPU: none is running",
    Queue.TRAIN_CPU: "waits for a worker that trains on a CPU: none is running",
    Queue.SCORE: "waits for a worker: none is running",
}
"""What a job waits for where no running worker serves its queue."""
NO_ROOM = "waits for room on the disk: it is full"


def job_view(
    job: Job, served: Collection[Queue], place_in_line: int | None = None, home: Path | None = None
) -> JobView:
    """Return the answer about a job; ``home`` is the data folder, whose disk may have no room, None to skip that."""
    path = f"/v1/jobs/{job.id}"
    links = {"self": path} | {name: f"{path}/{name}" for name in ("events", "metrics", "samples", "log")}
    if job.finished:
        links["delete"] = path
    else:
        links["cancel"] = f"{path}/cancel"
        links["pause"] = f"{path}/pause"
    if job.status is Status.PAUSED:
        links["resume"] = f"{path}/resume"
    if job.status in (Status.FAILED, Status.CANCELLED):
        links["retry"] = f"{path}/retry"
    if job.result is not None and "output" not in job.result:
        links["result"] = f"{path}/result"
    if job.result is not None and "ref" in job.result:
        links["model"] = f"/v1/models/{job.result['ref']}"
        links["score"] = f"/v1/models/{job.result['ref']}/score"
    if job.result is not None and "calibration" in job.result:
        links["calibration"] = f"{links['model']}/calibrations/{job.result['calibration']}"
    return JobView(
        **job.model_dump(exclude={"attempts_without_progress", "caller", "origin", "worker", "status", "queue"}),
        status=job.status.value,
        queue=job.queue.value,
        place_in_line=place_in_line,
        waits_for=_waits_for(job, served, home) if job.status is Status.QUEUED else None,
        links=links,
    )


def curve_answer(curve: CurveEvents, most: int | None = None) -> tuple[list[CurvePoint], list[Validation]]:
    """Return at most ``most`` steps of a curve, evenly spread, and all of its validations."""
    points = curve.points if most is None else thin(curve.points, most)
    validations = [{key: value for key, value in event.items() if key != "event"} for event in curve.validations]
    return [CurvePoint.model_validate(point) for point in points], [Validation.model_validate(v) for v in validations]


def _waits_for(job: Job, served: Collection[Queue], home: Path | None) -> str | None:
    if job.queue not in served:
        return NO_WORKER[job.queue]
    return NO_ROOM if home is not None and usable_bytes(home) < ROOM_BYTES else None


def refuse_used_version(jobs: JobStore, name: str, version: int) -> None:
    """Raise a 409 ``Problem`` if an unfinished job uses a model version."""
    ref = f"{name}:{version}"
    refuse_in_use(jobs, lambda job: job.model == ref, "version-in-use", ref)


def refuse_used_model(jobs: JobStore, name: str) -> None:
    """Raise a 409 ``Problem`` if an unfinished job uses or trains a model."""
    refuse_in_use(jobs, lambda job: job.model.partition(":")[0] == name, "model-in-use", name)


def refuse_in_use(jobs: JobStore, uses: Callable[[Job], bool], slug: str, name: str) -> None:
    """Raise a 409 ``Problem`` if an unfinished job, also in its parameters, names a resource and ``uses`` it."""
    job = next(filter(uses, jobs.mentioning(name)), None)
    if job is not None:
        detail = f"job {job.id} is {job.status.value} and uses {name}; cancel it first or wait for its end"
        raise Problem(slug, detail, extensions={"job": job.id})


PING_S = 0.5
STALE_S = 3.0  # seconds without an answer after which the store counts as down
COUNT_EVERY = 10  # pings between two counts of the waiting jobs


class JobStoreMonitor(PeriodicThread):
    """Thread that pings Redis every 0.5 s and counts the waiting jobs at every tenth ping."""

    def __init__(self, store: JobStore) -> None:
        super().__init__("job-store-watch", PING_S, self._ping)
        self._store = store
        self._alive_at: float | None = None
        self._waiting: dict[Queue, int] = {}
        self._pings = 0

    @property
    def answers(self) -> bool:
        """Whether Redis answered less than 3 s ago and no ping has failed since; never blocks."""
        alive_at = self._alive_at
        return alive_at is not None and time.monotonic() - alive_at < STALE_S

    @property
    def waiting(self) -> dict[Queue, int]:
        """The number of waiting jobs by queue; empty before the first count and while Redis is down."""
        return self._waiting if self.answers else {}

    def _ping(self) -> None:
        try:
            self._store.ping()
            self._alive_at = time.monotonic()
            if self._pings % COUNT_EVERY == 0:
                self._waiting = {queue: self._store.waiting(queue) for queue in Queue}
            self._pings += 1
        except Exception as error:
            self._alive_at = None
            if not isinstance(error, BrokerDown):  # such as a Redis that refuses a command
                raise
