"""Bulk scoring: `python -m worker.attempts.score JOB_DIR`, and with `--assist` a helper of the attempt that does it.

The images are cut into shards. Whoever is free takes one, scores it and writes its part, which appears whole; what is
there is not done again. The attempt that owns the job offers the shards, takes part, and makes one table of all
parts. A helper owns nothing: it comes and goes.
"""

# ruff: noqa: PLC0415  # PyTorch takes seconds to import: signals and niceness are set before that

import logging
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from worker.attempts.attempt import Fence, JobSpec, StopFlag, attempt, prepare_process
from worker.broker.connection import redis_client
from worker.errors import BrokerDown, JobNotFound
from worker.jobs.events import EventLog
from worker.jobs.record import ACTIVE
from worker.jobs.retention import adopt_earlier
from worker.jobs.store import JobStore
from worker.runtime.process import ExitCode
from worker.settings import Settings

if TYPE_CHECKING:
    from models.bulk.table import PartSummary

log = logging.getLogger(__name__)

PARTS = "parts"
RESULT = "scores.parquet"
IDLE_S = 0.2


def run(folder: Path, spec: JobSpec, settings: Settings, events: EventLog, stop: StopFlag) -> None:
    """Scores every image of a dataset to one Parquet file; raises what stands in the way."""
    from models.bulk.part import Stopped
    from models.bulk.plan import open_plan
    from models.bulk.table import merge_parts, read_summary
    from models.training.loop import Interrupted
    from worker.attempts.shard_work import ShardProgress, ShardWork

    store = JobStore(redis_client(settings), settings.key_prefix)
    fence = Fence(store, spec, settings, stop)
    fence.require()
    if (folder / RESULT).exists():  # whole, or not there: an attempt before died when it only had to say so
        _finish(read_summary(folder / RESULT), folder, store, spec, events)
        return
    earlier = adopt_earlier(store, folder, spec.retry_of, PARTS)
    if earlier is not None:
        events.write({"event": "log", "message": f"goes on from the parts of job {earlier}"})
    work = ShardWork(folder / PARTS, spec, settings, open_plan)
    work.shards.offer(work.plan.missing())
    progress = ShardProgress(work.plan, events)

    def should_stop() -> bool:
        fence.check_periodically()
        return stop.is_set()

    try:
        while work.plan.missing():
            progress.report_if_due()
            try:
                worked = work.one(should_stop, progress.report_if_due)
                if not worked and work.shards.left() == 0:
                    work.shards.offer(work.plan.missing())  # the job store lost them
            except BrokerDown as problem:
                log.warning("waits for the broker: %s", problem.detail)
                worked = False
            if should_stop():
                raise Stopped("asked to stop")
            if worked:
                progress.report(work.plan.missing())
            else:
                time.sleep(IDLE_S)
    except Stopped as stopped:
        raise Interrupted(str(stopped)) from stopped
    progress.report([])
    fence.require()
    found = merge_parts(work.plan.part_paths, folder / RESULT, work.plan.plan.metadata)
    _finish(found, folder, store, spec, events)


def _finish(found: "PartSummary", folder: Path, store: JobStore, spec: JobSpec, events: EventLog) -> None:
    store.shards(spec.id).forget()
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    counts = {"images": found.images, "anomalies": found.anomalies, "errors": found.errors}
    events.write({"event": "scored", "model": spec.model, **counts})


def assist(folder: Path, settings: Settings, stop: StopFlag) -> None:
    """Takes shards of a job until none is free, no attempt has the job in hand, or it is told to stop.

    Once the job is queued again it ends: this worker may be the one that has to take the job itself.
    """
    from models.bulk.part import Stopped
    from models.bulk.plan import join_plan
    from worker.attempts.shard_work import ShardWork

    spec = JobSpec.read(folder)
    store = JobStore(redis_client(settings), settings.key_prefix)
    while not (folder / PARTS / "plan.json").exists():  # the attempt is loading its model
        if not _goes_on(store, spec, stop):
            return
        time.sleep(IDLE_S)
    work = ShardWork(folder / PARTS, spec, settings, join_plan)
    while _goes_on(store, spec, stop) and work.plan.missing():
        try:
            if not work.one(stop.is_set):
                return  # it is called again where something becomes free
        except BrokerDown as problem:
            log.warning("waits for the broker: %s", problem.detail)
            time.sleep(IDLE_S)
        except Stopped:
            return


def _goes_on(store: JobStore, spec: JobSpec, stop: StopFlag) -> bool:
    if stop.is_set():
        return False
    try:
        status = store.get(spec.id).status
    except JobNotFound:
        return False
    except BrokerDown:
        return True  # nobody can tell, and what is scored is not lost
    return status in ACTIVE


def main() -> int:
    """Entry point: an attempt, or with `--assist` a helper of one."""
    if sys.argv[2:] != ["--assist"]:
        return attempt(run)
    settings, stop = prepare_process()
    from models.errors import ModelsError

    try:
        assist(Path(sys.argv[1]), settings, stop)
    except ModelsError as problem:
        log.error("cannot help: %s", problem.detail)
        return ExitCode.REFUSED
    return ExitCode.DONE


if __name__ == "__main__":
    raise SystemExit(main())
