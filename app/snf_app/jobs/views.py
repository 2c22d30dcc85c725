from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from snf_client.schemas.jobs import JobView
from snf_client.schemas.training import CurvePoint, Validation
from snf_models.disk import usable_bytes
from snf_worker.jobs.events import CurveEvents, thin
from snf_worker.jobs.record import Job, Queue, Status
from snf_worker.jobs.submission import ROOM_BYTES

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
        **job.model_dump(exclude={"attempts_without_progress", "caller", "worker", "status", "queue"}),
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
