"""Scoring of shards (ranges of images) of a bulk scoring job, by any number of processes."""

import logging
import time
from collections.abc import Callable, Sequence

from models.bulk.engine_choice import with_engine, with_engine_of_scorer
from models.bulk.part import Stopped, score_range
from models.bulk.plan import BulkPlan, Parts
from models.errors import ModelsError
from models.scorer import load_files
from models.threads import one_blas_thread
from worker.attempts.attempt import JobSpec
from worker.attempts.progress import ProgressReporter
from worker.attempts.score_inputs import score_inputs
from worker.broker.connection import redis_client
from worker.errors import BrokerDown
from worker.jobs.event_log import EventLog
from worker.jobs.shards import Shards
from worker.jobs.store import JobStore
from worker.settings import Settings

log = logging.getLogger(__name__)


class ShardWork:
    """Scorer in one process of a bulk job; it uses the engine of ``stored``, the plan of the first process."""

    def __init__(
        self, spec: JobSpec, settings: Settings, stored: BulkPlan | None, take_plan: Callable[[BulkPlan], Parts]
    ) -> None:
        one_blas_thread()
        self._settings = settings
        inputs = score_inputs(spec, settings)
        plan = inputs.plan.with_engine_of(stored)
        self._scorer, self._source = load_files(with_engine(inputs.model, plan)), inputs.source
        self.parts = take_plan(with_engine_of_scorer(plan, self._scorer))
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

    def __init__(
        self, plan: BulkPlan, shards: Shards, events: EventLog, missing: Sequence[int], quiet_s: float
    ) -> None:
        self._plan = plan
        self._last = plan.parts - 1
        self._absent_images = (self._last + 1) * plan.images_per_part - plan.count  # those that the last part lacks
        self._shards = shards
        self._quiet_s = quiet_s
        self._quiet_until = 0.0
        done = plan.count - plan.images_in(missing)
        self._reporter = ProgressReporter(events, plan.count, done)

    def report_if_due(self) -> None:
        """Write a progress event if 0.5 s have passed and Redis answers."""
        if not self._reporter.due or time.monotonic() < self._quiet_until:
            return
        try:
            left = self._shards.left()
            last_is_left = left > 0 and self._shards.has(self._last)
        except BrokerDown:
            self._quiet_until = time.monotonic() + self._quiet_s
            return
        if left:  # none is left also where Redis lost them
            images_left = left * self._plan.images_per_part - (self._absent_images if last_is_left else 0)
            self.report(max(self._plan.count - images_left, self._reporter.done))

    def report(self, done: int) -> None:
        """Write a progress event. New parts are a checkpoint, because another attempt continues after them."""
        if done > self._reporter.done:
            self._reporter.checkpoint(done)
        self._reporter.report(done)
