"""Attempt to score a dataset in parts, by a Ray cluster or by any number of workers, which claim parts as shards."""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from snf_models.bulk.callbacks import Callbacks
from snf_models.bulk.completion import complete
from snf_models.bulk.engine_choice import choose_engine, with_engine, with_engine_of_scorer
from snf_models.bulk.engines import bulk_engine
from snf_models.bulk.output import Output, open_output, plan_at
from snf_models.bulk.part import Stopped, score_range
from snf_models.bulk.part_tables import PartSummary, read_summary
from snf_models.bulk.plan import BulkPlan, OpenPlan, Parts, join_plan, open_plan, stored_plan
from snf_models.bulk.sources import DatasetImages, chosen_part_size
from snf_models.bulk.work import BulkWork
from snf_models.datasets.image_source import ImageSource
from snf_models.disk import storage_errors, waits_for_room
from snf_models.errors import Interrupted, LocationUnavailable, ModelsError
from snf_models.loading.model_files import ModelFiles, content_digest
from snf_models.locations.location import Location, allowed_location
from snf_models.registry.registry import Registry
from snf_models.scorer import load_files
from snf_models.threads import one_blas_thread
from snf_runtime.anomaly.conformal import attainable_alpha
from snf_worker.attempts.run_attempt import REPORT_S, Attempt, JobSpec, ProgressReporter, StopFlag, note_reporter
from snf_worker.broker.connection import redis_client
from snf_worker.errors import BrokerDown, JobNotFound
from snf_worker.jobs.record import ACTIVE, SCORES
from snf_worker.jobs.store import JobStore
from snf_worker.process_setup import user_umask
from snf_worker.runtime.process import ExitCode
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

PARTS = "parts"
IDLE_S = 0.2


def run(attempt: Attempt) -> None:
    """Score every image of a dataset; write ``scores.parquet`` to the job's folder, or parts to its output location."""
    spec, table = attempt.spec, attempt.folder / SCORES
    attempt.require_lease()
    output = {}
    if table.exists():  # complete: an earlier attempt died before it could report the result
        summary = read_summary(table)
    else:
        attempt.adopt(PARTS, "goes on from the parts")
        on_ray = spec.output is not None and attempt.settings.ray_address is not None
        try:
            plan, summary = _score_on_ray(attempt) if on_ray else _score_shards(attempt)
        except Stopped as stopped:
            raise Interrupted(str(stopped)) from stopped
        if spec.output is not None:
            # The digest shows later whether the output still holds these scores.
            output = {"output": spec.output, "plan": plan.digest}
    attempt.store.shards(spec.id).forget()
    shutil.rmtree(attempt.folder / PARTS, ignore_errors=True)
    counts = {"images": summary.images, "anomalies": summary.anomalies, "errors": summary.errors}
    attempt.events.write({"event": "scored", "model": spec.model, **counts, **output})


def _score_shards(attempt: Attempt) -> tuple[BulkPlan, PartSummary]:
    """Offer the missing parts as shards, and score some, until all are written. Raises ``Stopped``."""
    work = ShardWork(attempt.folder, attempt.spec, attempt.settings, join=False)
    progress = ShardProgress(work, attempt)

    def score(missing: list[int]) -> None:
        work.shards.offer(missing)
        while missing:
            progress.report_if_due()
            try:
                worked = work.score_shard(attempt.should_stop, progress.report_if_due)
                if not worked and work.shards.left() == 0:
                    missing = work.parts.missing()
                    work.shards.offer(missing)  # Redis lost them
            except BrokerDown as problem:
                log.warning("waiting for the broker: %s", problem.detail)
                worked = False
            if attempt.should_stop():
                raise Stopped("asked to stop")
            if not worked:
                time.sleep(IDLE_S)

    def finish() -> PartSummary:
        progress.report(work.parts.plan.count)
        attempt.require_lease()
        return work.parts.finish(attempt.should_stop, note_reporter(attempt.events, "checking the parts"))

    return work.parts.plan, complete(work.parts.missing, score, finish, attempt.note)


def _score_on_ray(attempt: Attempt) -> tuple[BulkPlan, PartSummary]:
    """Score the missing parts of a job with an output on Ray, and report the progress. Raises ``Stopped``."""
    spec, settings = attempt.spec, attempt.settings
    engine = bulk_engine("ray", ray_address=settings.ray_address)
    plan, model, images, _ = _inputs(spec, settings)
    plan, model = choose_engine(plan, model, plan_at(_output(spec, settings)))
    output = _open_output(spec, settings, plan)
    scored = written = plan.count - plan.images_in(output.missing())
    reporter = ProgressReporter(attempt.events, plan.count, scored)

    def advance(images: int) -> None:
        nonlocal scored
        scored += images
        reporter.report(scored)

    def part_written(images: int) -> None:
        nonlocal written
        written += images
        reporter.checkpoint(written)

    # An event is written where something moved, and never by the clock: the worker ends a job without events as hung.
    callbacks = Callbacks(attempt.should_stop, advance, part_written, notice=attempt.note)

    def score(missing: list[int]) -> None:
        nonlocal scored, written
        scored = written = plan.count - plan.images_in(missing)
        attempt.note(f"scored by the Ray cluster at {settings.ray_address}")
        engine.run(BulkWork(Output(output.location, plan), model, images), missing, callbacks)

    def finish() -> PartSummary:
        reporter.report(plan.count)
        return output.finish(attempt.should_stop, note_reporter(attempt.events, "checking the parts"))

    summary = complete(output.missing, score, finish, attempt.note)
    attempt.require_lease()
    return plan, summary


def assist(folder: Path, settings: Settings, stop: StopFlag) -> ExitCode:
    """Help another worker's job as ``score_free_shards``; return the exit code."""
    try:
        with storage_errors():
            score_free_shards(folder, settings, stop)
    except LocationUnavailable as problem:
        log.warning("cannot assist with the job now: %s", problem.detail)
        return ExitCode.PREEMPTED
    except ModelsError as problem:
        log.error("cannot assist with the job: %s", problem.detail)
        return ExitCode.NO_ROOM if waits_for_room(problem) else ExitCode.REFUSED
    return ExitCode.DONE


def score_free_shards(folder: Path, settings: Settings, stop: StopFlag) -> None:
    """Claim and score free shards of another worker's job until none is free, it is not running, or ``stop`` is set."""
    spec = JobSpec.read(folder)
    store = JobStore(redis_client(settings), settings.key_prefix)
    while not (folder / PARTS / "plan.json").exists():  # the attempt is loading its model
        if not _is_running(store, spec, stop):
            return
        time.sleep(IDLE_S)
    work = ShardWork(folder, spec, settings, join=True)
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
    try:
        return not stop.is_set() and store.get(spec.id).status in ACTIVE
    except JobNotFound:
        return False
    except BrokerDown:
        return True  # unknown, and no finished part is lost


def _inputs(spec: JobSpec, settings: Settings) -> tuple[BulkPlan, ModelFiles, DatasetImages, ImageSource]:
    """Return the plan without its engine, the calibrated model, and the images, also opened; raise ``ModelsError``."""
    parameters = {name: value for name, value in spec.parameters.items() if value is not None and name != "output"}
    calibrated = spec.open_model(Registry(settings.registry_dir), parameters.get("calibration"))
    manifest = calibrated.manifest
    images = DatasetImages(spec.dataset, settings.data_dir, settings.datasets_dir)
    source = images.open(manifest.preprocessing)
    chosen = {
        "alpha": attainable_alpha(None, calibrated.calibration_summary.smallest_p),
        "images_per_part": chosen_part_size(source),
    }
    options = settings.job_engine_options
    plan = BulkPlan(
        model=spec.model,
        weights_sha256=manifest.log_dets.weights_sha256,
        kind=manifest.architecture.kind,
        dataset=spec.dataset,
        source_digest=source.digest,
        count=source.count,
        model_sha256=content_digest(calibrated.path, calibrated.calibration_path),
        precision=options.precision or calibrated.calibration_summary.precision,
        **(chosen | parameters | {"calibration": calibrated.calibration}),
    )
    model = ModelFiles(calibrated.path, calibrated.calibration_path, options)
    return plan, model, images, source


@dataclass(frozen=True)
class TableParts(OpenPlan):
    """Score files that are joined into one table in the job's folder."""

    table: Path

    def finish(self, should_stop: Callable[[], bool], progress: Callable[[int, int], None]) -> PartSummary:
        """Check and join all score files into one table. This is quick and cannot be stopped."""
        return self.merge(self.table)


@dataclass(frozen=True)
class OutputParts(Output):
    """Score files at the job's output location, not merged. Local files get the user's umask."""

    def write(self, index: int, table: pa.Table) -> PartSummary:
        with user_umask():
            return super().write(index, table)

    def finish(
        self,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> PartSummary:
        with user_umask():
            return super().finish(should_stop, progress)


def open_parts(folder: Path, spec: JobSpec, settings: Settings, plan: BulkPlan, *, join: bool) -> Parts:
    """Open the storage of score files; with ``join`` of a job that another process has begun.

    Raises ``LocationRefused``, ``PlanDiffers`` or ``OutputTaken``.
    """
    output = None if spec.output is None else _open_output(spec, settings, plan, join=join)
    # Also where the parts are elsewhere: assistants compare their plan with this one.
    (join_plan if join else open_plan)(folder / PARTS, plan)
    return output or TableParts(folder / PARTS, plan, folder / SCORES)


def _open_output(spec: JobSpec, settings: Settings, plan: BulkPlan, *, join: bool = False) -> OutputParts:
    location = _output(spec, settings)
    if not join:
        with user_umask():
            open_output(location, plan)
    return OutputParts(location, plan)


def _output(spec: JobSpec, settings: Settings) -> Location:
    """Return the output of a job, checked as when it was queued: since then a link there may lead elsewhere."""
    assert spec.output is not None
    return allowed_location(spec.output, settings.allowed_locations, settings.home)


class ShardWork:
    """Scorer in one process of a bulk job; it uses the engine of the stored plan, which the first process chose."""

    def __init__(self, folder: Path, spec: JobSpec, settings: Settings, *, join: bool) -> None:
        stored = stored_plan(folder / PARTS) if spec.output is None else plan_at(_output(spec, settings))
        one_blas_thread()
        self._settings = settings
        plan, model, _, self._source = _inputs(spec, settings)
        plan = plan.with_engine_of(stored)
        self._scorer = load_files(with_engine(model, plan))
        self.parts = open_parts(folder, spec, settings, with_engine_of_scorer(plan, self._scorer), join=join)
        self.shards = JobStore(redis_client(settings), settings.key_prefix).shards(spec.id)

    def score_shard(self, should_stop: Callable[[], bool], progress: Callable[[], None] = lambda: None) -> bool:
        """Claim and score one free shard; return False if none is free; raise ``Stopped`` or ``BrokerDown``."""
        claim = self.shards.claim(self._settings.lease_seconds)
        if claim is None:
            return False
        shard, token = claim
        renewed = time.monotonic()

        def stopped() -> bool:
            nonlocal token, renewed
            if time.monotonic() - renewed > self._settings.heartbeat_seconds:
                renewed = time.monotonic()
                try:
                    token = self.shards.renew(shard, token, self._settings.lease_seconds) or token
                except BrokerDown as problem:
                    log.warning("shard %d is scored without the broker: %s", shard, problem.detail)
            return should_stop()

        plan = self.parts.plan
        if not self.parts.has(shard):
            try:
                table = score_range(
                    self._scorer,
                    self._source,
                    *plan.range(shard),
                    alpha=plan.alpha,
                    should_stop=stopped,
                    progress=lambda _images: progress(),
                )
                self.parts.write(shard, table)
            except (Stopped, ModelsError):
                self.shards.release(shard, token)
                raise
        self.shards.done(shard)
        return True


class ShardProgress:
    """Writer of progress events that count the images scored by all processes, as Redis has them."""

    def __init__(self, work: ShardWork, attempt: Attempt) -> None:
        self._plan = plan = work.parts.plan
        self._shards = work.shards
        self._quiet_s = attempt.settings.heartbeat_seconds
        self._due_at = time.monotonic() + REPORT_S
        done = plan.count - plan.images_in(work.parts.missing())
        self._reporter = ProgressReporter(attempt.events, plan.count, done)

    def report_if_due(self) -> None:
        """Write a progress event if 0.5 s have passed and Redis answers."""
        if time.monotonic() < self._due_at:
            return
        plan = self._plan
        try:
            left = self._shards.left()
            last_is_left = left > 0 and self._shards.has(plan.parts - 1)
        except BrokerDown:
            self._due_at = time.monotonic() + self._quiet_s
            return
        if left:  # none is left also where Redis lost them
            absent = plan.parts * plan.images_per_part - plan.count  # images that the last part lacks
            images_left = left * plan.images_per_part - (absent if last_is_left else 0)
            self.report(max(plan.count - images_left, self._reporter.done))

    def report(self, done: int) -> None:
        """Write a progress event. New parts are a checkpoint, because another attempt continues after them."""
        if done > self._reporter.done:
            self._reporter.checkpoint(done)
        self._reporter.report(done)
        self._due_at = time.monotonic() + REPORT_S
