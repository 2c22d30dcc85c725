"""Service that decodes, scores and judges the images of requests, for all protocols."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import Request
from starlette.types import Scope

from snf_app.access.authentication import take_images
from snf_app.access.permissions import caller_of
from snf_app.calibrations.service import MAX_IMAGES as MAX_KEPT
from snf_app.calibrations.service import RecentEvidence
from snf_app.drift.service import DriftMonitor, DriftReference, Key
from snf_app.http.admission import RequestDeadline, deadline, while_connected
from snf_app.http.errors import invalid
from snf_app.metrics.registry import ServiceMetrics
from snf_app.registry.model_pool import ModelPool, ServedModel
from snf_app.scoring.fair_queue import BATCH, FairQueue
from snf_app.scoring.request_images import Item, Pixels, decode_batch, decoded, read_batch, source_pixels, too_many
from snf_app.scoring.responses import answer_json
from snf_client.schemas.scores import ScoreQuery
from snf_models.errors import ImageError
from snf_runtime.anomaly.detection import StoredEvidence
from snf_runtime.images.batch import batch_of
from snf_runtime.parallelism import Steps
from snf_worker.settings import Settings

if TYPE_CHECKING:
    from snf_models.scorer import Scorer
    from snf_runtime.anomaly.detection import Detection

MAX_ANSWERED = 16
"""Most images whose answer is encoded on the event loop; more images, or heat maps, take too long for it."""
MAX_EXPLAINED = 64
MAX_EXPLAINED_PIXELS = 2**20
"""Most images, and most pixels of them, in a request for heat maps: each adds an array and a picture to the answer."""
SECONDS_PER_MEGAPIXEL = 3.0  # growth of the default deadline for large images: several times the time of one core


class RequestedImage(NamedTuple):
    """An image to score, uint8 ``(channels, height, width)``, with the false-alarm rate of its verdict or None."""

    pixels: Pixels
    alpha: float | None


@dataclass(frozen=True)
class DetectImages:
    """Function that scores images by one model and number of draws; equal ones join their batches in the queue."""

    scorer: Scorer
    draws: int

    def __call__(self, images: Sequence[RequestedImage]) -> list[Detection | ImageError]:
        pixels = batch_of([image.pixels for image in images], self.scorer.preprocessing)
        return self.scorer.detect(pixels, [image.alpha for image in images], self.draws)


@dataclass(frozen=True)
class Admission:
    """An accepted scoring request."""

    caller: str
    loaded: ServedModel
    limit: int  # most images
    time: RequestDeadline
    held: AsyncExitStack  # left when the request is answered


@dataclass(frozen=True)
class ScoringService:
    """Admission, queue, metrics and drift tests that all scoring requests share."""

    settings: Settings
    pool: ModelPool
    queue: FairQueue
    metrics: ServiceMetrics
    drift: DriftMonitor
    recent: RecentEvidence

    async def answer(self, ref: str, request: Request, query: ScoreQuery, timeout_ms: int | None) -> bytes:
        """Return JSON; raise ``Problem`` for the request, ``ImageError`` if its only image is not judged."""
        async with self.admit(request.scope, ref, query, timeout_ms) as admission:
            items, many = await self._decoded(admission, request, query)
            images = decoded(items)
            take_images(request.scope, len(items))
            judgements = await self.detect(admission, list(images.values()), query)
        if not many and isinstance(judgements[0], ImageError):
            raise judgements[0]
        loaded = admission.loaded
        failed = [item.image.slug for item in items if isinstance(item.image, ImageError)]
        self.record(loaded, query, judgements, failed)
        judged = dict(zip(images, judgements, strict=True))
        if query.explain or len(items) > MAX_ANSWERED:
            return await asyncio.to_thread(answer_json, loaded, items, judged, query)
        return answer_json(loaded, items, judged, query)

    async def _decoded(self, admission: Admission, request: Request, query: ScoreQuery) -> tuple[list[Item], bool]:
        """Return the decoded images, and whether they fail individually; else raise ``ImageError``."""
        caller, limit, scorer = admission.caller, admission.limit, admission.loaded.scorer
        preprocessing = scorer.preprocessing
        if query.explain:
            scorer.require_spatial()
            area = 1 if preprocessing.tiled else preprocessing.height * preprocessing.width
            limit = min(limit, MAX_EXPLAINED, max(1, MAX_EXPLAINED_PIXELS // area))
        batch = await read_batch(request, preprocessing, limit)
        await admission.held.enter_async_context(while_connected(request))
        sizes = await source_pixels(batch, preprocessing, self.queue, caller)
        if preprocessing.tiled:
            pixels = sum(sizes)
            self.hold_large(admission, query, pixels)
            if query.explain and len(batch.uploads) > 1 and pixels > MAX_EXPLAINED_PIXELS:
                raise too_many(1)
        items = await decode_batch(batch, preprocessing, self.queue, caller, limit, sizes)
        if len(items) > limit:
            raise too_many(limit)
        return items, batch.many or batch.array

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
        async with deadline(timeout_ms, self.settings.request_timeout_s) as time, AsyncExitStack() as held:
            loaded = await self.pool.acquire(ref)
            # Before the work, so that a request that cannot be answered costs nothing.
            loaded.scorer.calibration.check_alpha(query.alpha)
            yield Admission(caller, loaded, limit, time, held)

    def hold_large(self, admission: Admission, query: ScoreQuery, pixels: int) -> None:
        """Count pixels of full-size images until the answer; raise ``Problem`` 413, or 429 if there is no room now."""
        admission.held.enter_context(self.queue.hold_pixels(admission.caller, pixels))
        admission.time.extend(SECONDS_PER_MEGAPIXEL * query.draws * pixels / 1e6)

    async def detect(
        self, admission: Admission, images: Sequence[Pixels], query: ScoreQuery
    ) -> list[Detection | ImageError]:
        """Score preprocessed images in the queue; raise ``Problem`` 429 above a caller's share, 503 while it closes."""
        if not images:
            return []
        caller, scorer = admission.caller, admission.loaded.scorer
        tiled = scorer.preprocessing.tiled
        # The draws of an image in a shared batch are one turn of the thread; steps spread more of them, or the tiles of
        # a large image, over several.
        if not query.explain and query.draws <= scorer.density.chunk_size and not tiled:
            requested = [RequestedImage(pixels, query.alpha) for pixels in images]
            function = DetectImages(scorer, query.draws)
            return await self.queue.run_each(
                caller, function, requested, query.draws, min(BATCH, scorer.density.chunk_size)
            )

        def work() -> Steps[list[Detection | ImageError]]:
            pixels = batch_of(images, scorer.preprocessing)
            return (yield from scorer.detect_steps(pixels, query.alpha, query.draws, explain=query.explain))

        count = len(images)
        if tiled:
            # Each tile counts as an image, and a single large image fits into an idle queue.
            count = sum(math.ceil(image[0].size / scorer.density.step_pixels) for image in images)
            count = max(len(images), min(count, self.queue.largest // query.draws))
        return await self.queue.run(caller, work(), count * query.draws)

    def record(
        self,
        loaded: ServedModel,
        query: ScoreQuery,
        judgements: Sequence[Detection | ImageError],
        failed: Sequence[str] = (),
    ) -> None:
        """Count images in the metrics, keep evidence and, with a ``source``, add to the drift test."""
        scored = [image for image in judgements if not isinstance(image, ImageError)]
        errors = [image.slug for image in judgements if isinstance(image, ImageError)]
        flagged = sum(image.verdict.is_anomaly for image in scored)
        version, scorer = loaded.version, loaded.scorer
        labels = version.name, str(version.version)
        self.metrics.scored.labels(*labels).inc(len(scored))
        self.metrics.flagged.labels(*labels).inc(flagged)
        for slug in (*errors, *failed):
            self.metrics.image_errors.labels(slug).inc()
        evidence = [image.likelihood.evidence for image in scored]
        if query.source is not None:
            levels = [level for one in evidence if one.white_levels is not None for level in one.white_levels.tolist()]
            statistics = [image.verdict.first_fold_statistic for image in scored]
            self.drift.record(Key.of(version), DriftReference.of(scorer), query.source, statistics, levels)
        kept = [StoredEvidence.of(one, query.alpha, scorer.density.precision) for one in evidence[-MAX_KEPT:]]
        self.recent.record(version.name, version.version, scorer.log_det_digest, kept)
