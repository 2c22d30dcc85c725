"""What every process of a bulk job does: claim a shard, score it, write its part. Imports PyTorch."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from models.bulk.part import Stopped, score_part
from models.bulk.plan import BulkPlan, OpenPlan
from models.bulk.sources import open_source
from models.datasets import DatasetStore
from models.naming import parse_ref
from models.registry.registry import Registry
from models.scorer import Scorer
from models.scoring.threads import one_blas_thread
from worker.attempts.attempt import JobSpec
from worker.broker.embedded import redis_client
from worker.errors import BrokerDown
from worker.jobs.events import EventLog
from worker.jobs.store import JobStore
from worker.settings import Settings

log = logging.getLogger(__name__)

REPORT_S = 0.5
SAY_S = 5.0
"""Time after which it is said that nothing changed."""


class ShardWork:
    """A loaded model, the images, and the shards of both that are still to do; raises `ModelsError`."""

    def __init__(
        self, folder: Path, spec: JobSpec, settings: Settings, take_plan: Callable[[Path, BulkPlan], OpenPlan]
    ) -> None:
        if settings.train_threads is not None:
            torch.set_num_threads(settings.train_threads)
        one_blas_thread()
        self._settings = settings
        registry = Registry(settings.registry_dir)
        name, version = registry.locate(parse_ref(spec.model))
        # That of the time when it was queued: another that becomes active since must not mix with it.
        number = spec.parameters.get("calibration")
        number = registry.calibrations(name, version).active() if number is None else number
        found = registry.with_calibration(name, version, number)
        self._scorer = Scorer.load(found.path, found.calibration_path, settings.job_engine_options)
        datasets = DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
        self._source = open_source(spec.dataset, settings.data_dir, datasets, self._scorer.preprocessing)
        plan = BulkPlan(
            model=spec.model,
            weights_sha256=self._scorer.log_det_digest,
            dataset=spec.dataset,
            source_digest=self._source.digest,
            count=self._source.count,
            **({"alpha": self._scorer.default_alpha} | spec.parameters | {"calibration": number}),
        )
        self.plan = take_plan(folder, plan)
        self.shards = JobStore(redis_client(settings), settings.key_prefix).shards(spec.id)

    def one(self, should_stop: Callable[[], bool], progress: Callable[[], None] = lambda: None) -> bool:
        """Does one shard; answers False where none is free. Raises `Stopped`, `BrokerDown`."""
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
                    log.warning("shard %d goes on without the broker: %s", shard, problem.detail)
            return should_stop()

        path = self.plan.part_path(shard)
        if not path.exists():
            try:
                score_part(
                    self._scorer,
                    self._source,
                    *self.plan.plan.ranges[shard],
                    path,
                    alpha=self.plan.plan.alpha,
                    should_stop=stopped,
                    progress=lambda _images: progress(),
                )
            except Stopped:
                self.shards.release(shard, token)
                raise
        self.shards.done(shard)
        return True


class Reports:
    """Says how far all processes are together, at most twice a second; what is missing tells."""

    def __init__(self, plan: OpenPlan, events: EventLog) -> None:
        self._plan = plan
        self._events = events
        self._began = self._told = self._said = time.monotonic()
        self._done = self._done_at_first = self._images(plan.missing())
        events.write({"event": "started", "step": self._done, "steps": plan.plan.count})

    def now_and_then(self, missing: list[int] | None = None) -> None:
        """Tells of the progress where it is time to."""
        if time.monotonic() - self._told >= REPORT_S:
            self.tell(self._plan.missing() if missing is None else missing)

    def tell(self, missing: list[int]) -> None:
        """Tells of the progress."""
        self._told = time.monotonic()
        done, total = self._images(missing), self._plan.plan.count
        if done == self._done and time.monotonic() - self._said < SAY_S:
            return
        self._said = time.monotonic()
        if done > self._done:
            self._done = done
            # A part is what a checkpoint is to a training: another attempt goes on after it.
            self._events.write({"event": "checkpoint", "step": done})
        speed = (done - self._done_at_first) / max(self._told - self._began, 1e-3)
        eta = (total - done) / speed if speed > 0 else None
        progress = {"step": done, "steps": total, "progress": done / max(total, 1)}
        self._events.write({"event": "metrics", **progress, "images_per_second": speed, "eta_seconds": eta})

    def _images(self, missing: list[int]) -> int:
        ranges = self._plan.plan.ranges
        return self._plan.plan.count - sum(ranges[shard][1] - ranges[shard][0] for shard in missing)
