"""``python -m worker.attempts.score JOB_DIR``: score a dataset. With ``--assist`` help another process with it."""

# ruff: noqa: PLC0415  # PyTorch takes seconds to import: signals and niceness are set before that

import logging
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from worker.attempts.attempt import Fence, JobSpec, attempt, prepare_process
from worker.attempts.progress import checking_reporter, write_note
from worker.attempts.stop_flag import StopFlag
from worker.broker.connection import redis_client
from worker.errors import BrokerDown, JobNotFound
from worker.jobs.event_log import EventLog
from worker.jobs.record import ACTIVE
from worker.jobs.retention import adopt_earlier
from worker.jobs.store import JobStore
from worker.runtime.process import ExitCode
from worker.settings import Settings

if TYPE_CHECKING:
    from models.bulk.part_tables import PartSummary
    from models.bulk.plan import BulkPlan
    from worker.attempts.shard_work import ShardProgress, ShardWork

log = logging.getLogger(__name__)

PARTS = "parts"
RESULT = "scores.parquet"
IDLE_S = 0.2


def run(folder: Path, spec: JobSpec, settings: Settings, events: EventLog, stop: StopFlag) -> None:
    """Score every image of a dataset; write ``scores.parquet`` to the job's folder, or parts to its output location."""
    from models.bulk.completion import complete
    from models.bulk.part import Stopped
    from models.bulk.part_tables import read_summary
    from models.training.interrupted import Interrupted
    from worker.attempts.score_on_ray import score_on_ray
    from worker.attempts.score_parts import begin_parts, stored_job_plan
    from worker.attempts.shard_work import ShardProgress, ShardWork

    store = JobStore(redis_client(settings), settings.key_prefix)
    fence = Fence(store, spec, settings, stop)
    fence.require()
    if (folder / RESULT).exists():  # complete: an earlier attempt died before it could report the result
        _finish(read_summary(folder / RESULT), folder, store, spec, events)
        return
    earlier = adopt_earlier(store, folder, spec.retry_of, PARTS)
    if earlier is not None:
        write_note(events, f"goes on from the parts of job {earlier}")

    def should_stop() -> bool:
        fence.check_periodically()
        return stop.is_set()

    if spec.output is not None and settings.ray_address is not None:
        try:
            plan, summary = score_on_ray(spec, settings, events, should_stop)
        except Stopped as stopped:
            raise Interrupted(str(stopped)) from stopped
        fence.require()
        _finish(summary, folder, store, spec, events, plan)
        return
    stored = stored_job_plan(folder / PARTS, spec, settings)
    work = ShardWork(spec, settings, stored, partial(begin_parts, folder / PARTS, folder / RESULT, spec, settings))
    progress = ShardProgress(work.parts.plan, work.shards, events, work.parts.missing(), settings.heartbeat_seconds)

    def finish() -> "PartSummary":
        progress.report(work.parts.plan.count)
        fence.require()
        return work.parts.finish(should_stop, checking_reporter(events))

    try:
        score = partial(_score_shards, work, progress, should_stop)
        summary = complete(work.parts.missing, score, finish, partial(write_note, events))
    except Stopped as stopped:
        raise Interrupted(str(stopped)) from stopped
    _finish(summary, folder, store, spec, events, work.parts.plan)


def _score_shards(
    work: "ShardWork", progress: "ShardProgress", should_stop: Callable[[], bool], missing: list[int]
) -> None:
    """Offer the parts that are missing as shards, and score some until all are written. Raises ``Stopped``."""
    from models.bulk.part import Stopped

    work.shards.offer(missing)
    while missing:
        progress.report_if_due()
        try:
            worked = work.score_shard(should_stop, progress.report_if_due)
            if not worked and work.shards.left() == 0:
                missing = work.parts.missing()
                work.shards.offer(missing)  # Redis lost them
        except BrokerDown as problem:
            log.warning("waiting for the broker: %s", problem.detail)
            worked = False
        if should_stop():
            raise Stopped("asked to stop")
        if not worked:
            time.sleep(IDLE_S)


def _finish(
    summary: "PartSummary",
    folder: Path,
    store: JobStore,
    spec: JobSpec,
    events: EventLog,
    plan: "BulkPlan | None" = None,
) -> None:
    store.shards(spec.id).forget()
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    counts = {"images": summary.images, "anomalies": summary.anomalies, "errors": summary.errors}
    # The digest shows later whether the output still holds these scores.
    output = {} if spec.output is None or plan is None else {"output": spec.output, "plan": plan.digest}
    events.write({"event": "scored", "model": spec.model, **counts, **output})


def assist(folder: Path, settings: Settings, stop: StopFlag) -> None:
    """Claim and score free shards of another worker's job until none is free, it is not running, or ``stop`` is set."""
    from models.bulk.part import Stopped
    from worker.attempts.score_parts import join_parts, stored_job_plan
    from worker.attempts.shard_work import ShardWork

    spec = JobSpec.read(folder)
    store = JobStore(redis_client(settings), settings.key_prefix)
    while not (folder / PARTS / "plan.json").exists():  # the attempt is loading its model
        if not _is_running(store, spec, stop):
            return
        time.sleep(IDLE_S)
    stored = stored_job_plan(folder / PARTS, spec, settings)
    work = ShardWork(spec, settings, stored, partial(join_parts, folder / PARTS, folder / RESULT, spec, settings))
    while _is_running(store, spec, stop):
        try:
            if not work.score_shard(stop.is_set):
                return  # the worker is called again when a shard becomes free
        except BrokerDown as problem:
            log.warning("waiting for the broker: %s", problem.detail)
            time.sleep(IDLE_S)
        except Stopped:
            return


def _is_running(store: JobStore, spec: JobSpec, stop: StopFlag) -> bool:
    if stop.is_set():
        return False
    try:
        status = store.get(spec.id).status
    except JobNotFound:
        return False
    except BrokerDown:
        return True  # unknown, and no finished part is lost
    return status in ACTIVE


def main() -> int:
    if sys.argv[2:] != ["--assist"]:
        return attempt(run)
    settings, stop = prepare_process()
    from models.disk_space import storage_errors, waits_for_room
    from models.errors import ModelsError
    from models.locations.errors import LocationUnavailable

    try:
        with storage_errors():
            assist(Path(sys.argv[1]), settings, stop)
    except LocationUnavailable as problem:
        log.warning("cannot assist with the job now: %s", problem.detail)
        return ExitCode.PREEMPTED
    except ModelsError as problem:
        log.error("cannot assist with the job: %s", problem.detail)
        return ExitCode.NO_ROOM if waits_for_room(problem) else ExitCode.REFUSED
    return ExitCode.DONE


if __name__ == "__main__":
    raise SystemExit(main())
