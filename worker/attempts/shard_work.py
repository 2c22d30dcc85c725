"""Scoring of shards (ranges of images) of a bulk scoring job, by any number of processes. Imports PyTorch."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from models.bulk.part import Stopped, score_part
from models.bulk.plan import BulkPlan, OpenPlan
from models.bulk.sources import open_source
from models.datasets import DatasetStore
from models.naming import parse_ref
from models.registry.registry import Registry
from models.scorer import Scorer
from models.threads import one_blas_thread
from worker.attempts.attempt import JobSpec
from worker.attempts.progress import ProgressReporter
from worker.broker.connection import redis_client
from worker.errors import BrokerDown
from worker.jobs.events import EventLog
from worker.jobs.store import JobStore
from worker.settings import Settings

log = logging.getLogger(__name__)


class ShardWork:
    """State of one process in a bulk scoring job: the loaded model, the images, and the shards (image ranges) left.

    Args:
        folder: Folder of the parts.
        spec: Specification of the attempt.
        settings: Settings of this process.
        take_plan: Function that creates or joins the plan in ``folder``.

    Raises:
        ModelsError: The model or the dataset cannot be used.
    """

    def __init__(
        self, folder: Path, spec: JobSpec, settings: Settings, take_plan: Callable[[Path, BulkPlan], OpenPlan]
    ) -> None:
        if settings.train_threads is not None:
            torch.set_num_threads(settings.train_threads)
        one_blas_thread()
        self._settings = settings
        registry = Registry(settings.registry_dir)
        name, version = registry.locate(parse_ref(spec.model))
        # The calibration that was active when the job was queued: all parts must use the same one.
        number = spec.parameters.get("calibration")
        number = registry.calibrations(name, version).active() if number is None else number
        calibrated = registry.with_calibration(name, version, number)
        self._scorer = Scorer.load(calibrated.path, calibrated.calibration_path, settings.job_engine_options)
        datasets = DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
        self._source = open_source(spec.dataset, settings.data_dir, datasets, self._scorer.preprocessing)
        plan = BulkPlan(
            model=spec.model,
            weights_sha256=self._scorer.log_det_digest,
            kind=self._scorer.density.kind,
            dataset=spec.dataset,
            source_digest=self._source.digest,
            count=self._source.count,
            **({"alpha": self._scorer.default_alpha} | spec.parameters | {"calibration": number}),
        )
        self.plan = take_plan(folder, plan)
        self.shards = JobStore(redis_client(settings), settings.key_prefix).shards(spec.id)

    def score_shard(self, should_stop: Callable[[], bool], progress: Callable[[], None] = lambda: None) -> bool:
        """Score a free range of images (shard), and write the scores to a file; return False if none is free.

        Args:
            should_stop: Function that is called between batches; True stops the work.
            progress: Function that is called after each batch.

        Returns:
            False if no shard is free.

        Raises:
            Stopped: ``should_stop`` returned True.
            BrokerDown: Redis does not answer.
        """
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


class ShardProgress:
    """Writer of a bulk scoring job's progress events: images scored by all of its processes together."""

    def __init__(self, plan: OpenPlan, events: EventLog) -> None:
        self._plan = plan
        self._reporter = ProgressReporter(events, plan.plan.count, self._images(plan.missing()))

    def report_if_due(self) -> None:
        """Write a progress event for the bulk job if the last call was at least 0.5 s ago.

        Finding the missing parts takes time.
        """
        if self._reporter.due:
            self.report(self._plan.missing())

    def report(self, missing: Sequence[int]) -> None:
        """Write the number of images scored so far; ``missing`` are the numbers of the unfinished shards.

        Newly written parts are a checkpoint, because another attempt continues after them.
        """
        done = self._images(missing)
        if done > self._reporter.done:
            self._reporter.checkpoint(done)
        self._reporter.report(done)

    def _images(self, missing: Sequence[int]) -> int:
        ranges = self._plan.plan.ranges
        return self._plan.plan.count - sum(ranges[shard][1] - ranges[shard][0] for shard in missing)
