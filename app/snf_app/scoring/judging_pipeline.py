"""Scoring of decoded images for all kinds of requests, with admission, queue, metrics and drift tests."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from starlette.types import Scope

from snf_app.access.permissions import caller_of
from snf_app.calibrations.recent_evidence import MAX_IMAGES as MAX_KEPT
from snf_app.calibrations.recent_evidence import RecentEvidence
from snf_app.drift.monitor import DriftMonitor
from snf_app.drift.streams import DriftReference, Key
from snf_app.http.admission import RequestDeadline, deadline
from snf_app.http.errors import invalid
from snf_app.metrics.registry import ServiceMetrics
from snf_app.registry.loaded import Loaded
from snf_app.registry.model_pool import ModelPool
from snf_app.scoring.fair_line import BATCH
from snf_app.scoring.large_images import SECONDS_PER_MEGAPIXEL, LargeImages
from snf_app.scoring.queue import ScoringQueue
from snf_app.scoring.request_images import Pixels
from snf_app.scoring.schemas import ScoreQuery
from snf_models.errors import ImageError
from snf_runtime.images.batch import batch_of
from snf_runtime.steps import Steps
from snf_worker.settings import Settings

if TYPE_CHECKING:
    from snf_models.scorer import Scorer
    from snf_runtime.anomaly.judged import Judgement


class RequestedImage(NamedTuple):
    """An image to score, with the false-alarm rate of its anomaly verdict.

    Its pixels are uint8 ``(channels, height, width)``.

    ``alpha`` is None for the default of the model.
    """

    pixels: Pixels
    alpha: float | None


@dataclass(frozen=True)
class JudgeImages:
    """Function that scores images by one model and number of draws; equal ones join their batches in the queue."""

    scorer: Scorer
    draws: int

    def __call__(self, images: Sequence[RequestedImage]) -> list[Judgement]:
        pixels = batch_of([image.pixels for image in images], self.scorer.preprocessing)
        return self.scorer.judge_each(pixels, [image.alpha for image in images], self.draws)


@dataclass(frozen=True)
class Admission:
    """An accepted scoring request."""

    scope: Scope
    caller: str
    loaded: Loaded
    limit: int  # most images
    time: RequestDeadline
    held: AsyncExitStack  # left when the request is answered


@dataclass(frozen=True)
class Judging:
    """Pipeline of all scoring endpoints, so that they share limits, queue and drift tests."""

    settings: Settings
    pool: ModelPool
    queue: ScoringQueue
    metrics: ServiceMetrics
    drift: DriftMonitor
    recent: RecentEvidence
    large: LargeImages

    @asynccontextmanager
    async def admit(
        self, scope: Scope, ref: str, query: ScoreQuery, timeout_ms: int | None
    ) -> AsyncIterator[Admission]:
        """Load the model, before the body is read, and apply the deadline to the block; raise ``Problem``."""
        # A draw is a pass through the flow: the queue counts passes, and so does the limit of a request.
        limit = min(self.settings.max_images_per_request, self.queue.largest // query.draws)
        if limit == 0:
            raise invalid("/query/draws", f"this service takes at most {self.queue.largest} draws at once")
        caller = caller_of(scope).name
        # Before the body is read and decoded, so that a refusal costs little.
        self.queue.check(caller, query.draws)
        async with deadline(timeout_ms, self.settings.request_timeout_s) as time, AsyncExitStack() as held:
            loaded = await self.pool.acquire(ref)
            # Before the work, so that a request that cannot be answered costs nothing.
            loaded.scorer.calibration.check_alpha(query.alpha)
            yield Admission(scope, caller, loaded, limit, time, held)

    def hold_large(self, admission: Admission, query: ScoreQuery, pixels: int) -> None:
        """Hold room until the answer for full-size images; raise ``Problem`` 413 if never, 429 if not now."""
        admission.held.enter_context(self.large.hold(admission.caller, pixels))
        admission.time.extend(SECONDS_PER_MEGAPIXEL * query.draws * pixels / 1e6)

    async def judge(self, admission: Admission, images: Sequence[Pixels], query: ScoreQuery) -> list[Judgement]:
        """Score preprocessed images in the queue; raise ``Problem`` 429 above a caller's share, 503 while it closes."""
        if not images:
            return []
        caller, scorer = admission.caller, admission.loaded.scorer
        tiled = scorer.preprocessing.tiled
        # The draws of an image in a shared batch are one turn of the thread; steps spread more of them, or the tiles of
        # a large image, over several.
        if not query.explain and query.draws <= scorer.at_once and not tiled:
            requested = [RequestedImage(pixels, query.alpha) for pixels in images]
            function = JudgeImages(scorer, query.draws)
            return await self.queue.run_each(caller, function, requested, query.draws, min(BATCH, scorer.at_once))

        def work() -> Steps[list[Judgement]]:
            pixels = batch_of(images, scorer.preprocessing)
            return (yield from scorer.judge_steps(pixels, query.alpha, query.draws, explain=query.explain))

        count = len(images)
        if tiled:
            # Each tile counts as an image, and a single large image fits into an idle queue.
            count = sum(math.ceil(image[0].size / scorer.density.step_pixels) for image in images)
            count = max(len(images), min(count, self.queue.largest // query.draws))
        return await self.queue.run(caller, work(), count * query.draws)

    def record(
        self, loaded: Loaded, query: ScoreQuery, judgements: Sequence[Judgement], failed: Sequence[str] = ()
    ) -> None:
        """Count images in the metrics, keep evidence and, with a ``source``, add to the drift test."""
        verdicts = [image.verdict for image in judgements if not isinstance(image, ImageError)]
        errors = [image.slug for image in judgements if isinstance(image, ImageError)]
        flagged = sum(verdict.is_anomaly for verdict in verdicts)
        self.metrics.count_images(loaded.version.name, loaded.version.version, len(verdicts), flagged)
        self.metrics.count_image_errors([*errors, *failed])
        if query.source is not None:
            levels = [level for image in judgements for level in _white_levels(image)]
            statistics = [verdict.first_fold_statistic for verdict in verdicts]
            key, reference = Key.of(loaded.version), DriftReference.of(loaded.scorer)
            self.drift.record(key, reference, query.source, statistics, levels)
        self._keep(loaded, query.alpha, judgements)

    def _keep(self, loaded: Loaded, alpha: float | None, judgements: Sequence[Judgement]) -> None:
        from snf_models.anomaly.rejudge import StoredEvidence  # noqa: PLC0415 - not needed before the first answer

        scorer = loaded.scorer
        scored = [image.likelihood.evidence for image in judgements if not isinstance(image, ImageError)]
        newest = [evidence for evidence in scored if evidence is not None][-MAX_KEPT:]
        images = [StoredEvidence.of(evidence, alpha, scorer.precision) for evidence in newest]
        self.recent.record(loaded.version.name, loaded.version.version, scorer.log_det_digest, images)


def _white_levels(image: Judgement) -> list[int]:
    """Return the white level of a scored image, in a list; an empty one for an image without a finite likelihood."""
    if isinstance(image, ImageError) or image.likelihood.evidence is None:
        return []
    levels = image.likelihood.evidence.white_levels
    return [] if levels is None else levels.tolist()
