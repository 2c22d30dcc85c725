from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery import Celery  # type: ignore[import-untyped]
from starlette.types import Scope

from snf_app.access.permissions import caller_of, require
from snf_app.jobs.planning import JobPlan, plan_job, require_feasible
from snf_client.schemas.base import JobType
from snf_client.schemas.jobs import JobRequest
from snf_models.datasets import DatasetStore
from snf_models.disk import locked, require_room
from snf_models.registry.registry import Registry
from snf_worker.jobs.measured_trainings import MeasuredTrainings
from snf_worker.jobs.record import Job
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import ROOM_BYTES, fingerprint_of, new_job, resume, retry, submit
from snf_worker.jobs.worker_registry import WorkerRegistry
from snf_worker.runtime.reconciler import remove_job
from snf_worker.settings import Settings


@dataclass(frozen=True)
class JobService:
    """Checks of a caller's role and of job requests, then queueing. Methods block and raise ``BrokerDown``."""

    settings: Settings
    registry: Registry
    datasets: DatasetStore
    jobs: JobStore
    celery: Celery
    workers: WorkerRegistry
    trainings: MeasuredTrainings

    def plan(self, request: JobRequest) -> JobPlan:
        """Check that a job can succeed, without queueing it; raise 422."""
        return plan_job(request, self.settings, self.registry, self.datasets, self.workers, self.trainings)

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
