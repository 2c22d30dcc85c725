"""Attempt to score a dataset in parts, by a Ray cluster or by any number of workers, which claim parts as shards."""

import logging
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from snf_models.bulk.executors import Callbacks, ThisProcess, executor
from snf_models.bulk.output import Output, complete, open_output, open_scratch, plan_at
from snf_models.bulk.plan import BulkPlan
from snf_models.bulk.tables import PartSummary, read_summary
from snf_models.bulk.work import BulkModel, BulkWork, choose_engine
from snf_models.datasets.image_source import DatasetImages
from snf_models.disk import storage_errors, waits_for_room
from snf_models.errors import Interrupted, LocationUnavailable, ModelsError, PlanDiffers
from snf_models.loading.verification import ModelFiles
from snf_models.locations.location import Location, allowed_location
from snf_models.registry.registry import Registry
from snf_worker.attempts.run_attempt import (
    REPORT_S,
    Attempt,
    ProgressReporter,
    StopFlag,
    note_reporter,
    open_model,
    read_job,
)
from snf_worker.broker.connection import redis_client
from snf_worker.errors import BrokerDown, JobNotFound
from snf_worker.jobs.record import ACTIVE, SCORES, ExitCode, Job
from snf_worker.jobs.store import JobStore, Shards
from snf_worker.process_setup import user_umask
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

PARTS = "parts"
IDLE_S = 0.2


def run(attempt: Attempt) -> None:
    """Score every image of a dataset; write ``scores.parquet`` to the job's folder, or parts to its output location."""
    spec, table = attempt.job, attempt.folder / SCORES
    attempt.require_lease()
    output = {}
    if table.exists():  # complete: an earlier attempt died before it could report the result
        summary = read_summary(table)
    else:
        attempt.adopt(PARTS, "goes on from the parts")
        plan, summary = _score(attempt)
        if spec.output is not None:
            # The digest shows later whether the output still holds these scores.
            output = {"output": spec.output, "plan": plan.digest}
    attempt.store.shards(spec.id).forget()
    shutil.rmtree(attempt.folder / PARTS, ignore_errors=True)
    counts = {"images": summary.images, "anomalies": summary.anomalies, "errors": summary.errors}
    attempt.events.write({"event": "scored", "model": spec.model, **counts, **output})


def _score(attempt: Attempt) -> tuple[BulkPlan, PartSummary]:
    """Score the missing parts until all are written, and join those of a job without an output."""
    folder, spec, settings = attempt.folder, attempt.job, attempt.settings
    on_ray = spec.output is not None and settings.ray_address is not None
    engine = executor("ray", ray_address=settings.ray_address) if on_ray else None
    plan, model, images = _inputs(spec, settings)
    plan, model, scorer = choose_engine(plan, model, plan_at(_place(folder, spec, settings)))
    output = open_parts(folder, spec, settings, plan)
    progress = ScoringProgress(attempt, plan, output.missing())

    def score(missing: list[int]) -> None:
        progress.begin(missing)
        if engine is not None:
            attempt.note(f"scored by the Ray cluster at {settings.ray_address}")
            callbacks = Callbacks(attempt.should_stop, progress.advance, progress.part_written, attempt.note)
            engine.run(BulkWork(Output(output.location, plan), model, images), missing, callbacks)
            return
        shards = attempt.store.shards(spec.id)
        parts = SharedParts(shards, output, settings, attempt.should_stop)

        def look() -> None:
            progress.look(shards.unfinished)

        with closing(parts.all(missing, look)) as claimed:
            callbacks = Callbacks(parts.keep, lambda _images: look())
            ThisProcess(scorer).run(BulkWork(output, model, images), claimed, callbacks)

    def finish() -> PartSummary:
        progress.reach(plan.count)
        attempt.require_lease()
        with user_umask() if spec.output else nullcontext():
            summary = output.finish(attempt.should_stop, note_reporter(attempt.events, "checking the parts"))
        return summary if spec.output else output.merge(folder / SCORES)

    summary = complete(output, score, finish, attempt.note)
    attempt.require_lease()
    return plan, summary


def assist(folder: Path, settings: Settings, stop: StopFlag) -> ExitCode:
    """Help another worker's job as :func:`score_free_parts`; return the exit code."""
    try:
        with storage_errors():
            score_free_parts(folder, settings, stop)
    except Interrupted:
        return ExitCode.DONE
    except LocationUnavailable as problem:
        log.warning("cannot assist with the job now: %s", problem.detail)
        return ExitCode.PREEMPTED
    except ModelsError as problem:
        log.error("cannot assist with the job: %s", problem.detail)
        return ExitCode.NO_ROOM if waits_for_room(problem) else ExitCode.REFUSED
    return ExitCode.DONE


def score_free_parts(folder: Path, settings: Settings, stop: StopFlag) -> None:
    """Claim and score free parts of another worker's job until none is free; the worker is called again for more.

    Raises ``Interrupted``, or ``PlanDiffers`` if model or images here are others.
    """
    spec = read_job(folder)
    store = JobStore(redis_client(settings), settings.key_prefix)
    place = _place(folder, spec, settings)
    stored = plan_at(place)
    if stored is None:
        return  # the attempt is loading its model
    plan, model, images = _inputs(spec, settings)
    plan, model, scorer = choose_engine(plan, model, stored)
    if plan != stored:
        raise PlanDiffers("the model or the images of this machine are not those of the job")
    output = Output(place, plan) if spec.output is None else OutputParts(place, plan)
    parts = SharedParts(store.shards(spec.id), output, settings, stop.is_set)
    with closing(parts.free(lambda: _is_running(store, spec))) as claimed:
        ThisProcess(scorer).run(BulkWork(output, model, images), claimed, Callbacks(parts.keep))


def _is_running(store: JobStore, spec: Job) -> bool:
    try:
        return store.get(spec.id).status in ACTIVE
    except JobNotFound:
        return False
    except BrokerDown:
        return True  # unknown, and no finished part is lost


def _inputs(spec: Job, settings: Settings) -> tuple[BulkPlan, ModelFiles, DatasetImages]:
    """Return the plan without its engine, the calibrated model, and the images; raise ``ModelsError``."""
    parameters = spec.parameters
    version = open_model(spec, Registry(settings.registry_dir), parameters.get("calibration"))
    model = BulkModel.of_version(version, settings.job_engine_options)
    images = DatasetImages(spec.dataset, settings.data_dir, settings.datasets_dir)
    source = images.open(model.manifest.preprocessing)
    plan = model.plan(spec.dataset, source, parameters.get("alpha"), parameters.get("images_per_part"))
    return plan, model.files, images


@dataclass(frozen=True)
class OutputParts(Output):
    """Score files at the job's output location, not merged. Local files get the user's umask."""

    def write(self, index: int, table: pa.Table) -> PartSummary:
        with user_umask():
            return super().write(index, table)


def open_parts(folder: Path, spec: Job, settings: Settings, plan: BulkPlan) -> Output:
    """Open the score files of a job; raise ``LocationRefused``, ``PlanDiffers`` or ``OutputTaken``."""
    if spec.output is None:
        return open_scratch(folder / PARTS, plan)
    place = _place(folder, spec, settings)
    with user_umask():
        open_output(place, plan)
    return OutputParts(place, plan)


def _place(folder: Path, spec: Job, settings: Settings) -> Location:
    """Return the location of the score files, that of an output checked as when the job was queued.

    Since then a link there may lead elsewhere.
    """
    if spec.output is None:
        return Location.parse(str(folder / PARTS))
    return allowed_location(spec.output, settings.allowed_locations, settings.home)


@dataclass
class SharedParts:
    """Parts that the workers of a job share; this process claims one after the other."""

    shards: Shards
    output: Output
    settings: Settings
    should_stop: Callable[[], bool]
    _claim: tuple[int, str] | None = None
    _renew_at: float = 0.0

    def all(self, missing: list[int], look: Callable[[], None]) -> Generator[int]:
        """Yield parts until all are written, also by others; raise ``Interrupted``."""
        while True:
            try:
                if missing:
                    self.shards.offer(missing)
                    missing = []
                yield from self.free()
                look()
                if not self.shards.unfinished():  # all are written, or Redis lost them
                    missing = self.output.missing()
                    if not missing:
                        return
                    continue
            except BrokerDown as problem:
                log.warning("waiting for the broker: %s", problem.detail)
            if self.should_stop():
                raise Interrupted("asked to stop")
            time.sleep(IDLE_S)

    def free(self, is_running: Callable[[], bool] = lambda: True) -> Generator[int]:
        """Yield parts until none is free, or the broker is down."""
        with suppress(BrokerDown):  # a claim ends by itself, and another process finds the part written
            while is_running() and (claim := self.shards.claim(self.settings.lease_seconds)):
                self._claim, self._renew_at = claim, time.monotonic() + self.settings.heartbeat_seconds
                index, _ = claim
                try:
                    if index < self.output.plan.parts and not self.output.part(index).exists():
                        yield index
                except GeneratorExit:
                    self.shards.release(*self._claim)
                    raise
                self.shards.done(index)

    def keep(self) -> bool:
        """Renew the claim where that is due; return whether to stop."""
        if self._claim is not None and time.monotonic() > self._renew_at:
            index, token = self._claim
            self._renew_at = time.monotonic() + self.settings.heartbeat_seconds
            try:
                self._claim = index, self.shards.renew(index, token, self.settings.lease_seconds) or token
            except BrokerDown as problem:
                log.warning("part %d is scored without the broker: %s", index, problem.detail)
        return self.should_stop()


class ScoringProgress:
    """Writer of progress events. New parts are a checkpoint, because another attempt continues after them."""

    def __init__(self, attempt: Attempt, plan: BulkPlan, missing: list[int]) -> None:
        self._plan = plan
        self._scored = self._written = plan.count - plan.images_in(missing)
        self._reporter = ProgressReporter(attempt.events, plan.count, self._scored)
        self._quiet_s = attempt.settings.heartbeat_seconds
        self._look_at = time.monotonic() + REPORT_S

    def begin(self, missing: list[int]) -> None:
        self._scored = self._written = self._plan.count - self._plan.images_in(missing)

    # An event is written where something moved, and never by the clock: the worker ends a job without events as hung.
    def advance(self, images: int) -> None:
        self._scored += images
        self._reporter.report(self._scored)

    def part_written(self, images: int) -> None:
        self._written += images
        self._reporter.checkpoint(self._written)

    def look(self, unfinished: Callable[[], list[int]]) -> None:
        """Report the parts that all workers have written, if 0.5 s have passed and Redis answers."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + REPORT_S
        try:
            left = unfinished()
        except BrokerDown:
            self._look_at = time.monotonic() + self._quiet_s
            return
        if left:  # none is left also where Redis lost them
            self.reach(self._plan.count - self._plan.images_in(left))

    def reach(self, done: int) -> None:
        if done > self._written:
            self.part_written(done - self._written)
        self._scored = self._written
        self._reporter.report(self._scored)
