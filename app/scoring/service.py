"""Scoring of a request's images: limits, decoding, the scoring queue, metrics and drift."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import Request

from app.access.callers import caller_of
from app.access.rate_limits import take_images
from app.calibrations.recent_evidence import MAX_IMAGES as MAX_KEPT
from app.calibrations.recent_evidence import RecentEvidence
from app.drift.monitor import DriftMonitor
from app.http.deadline import deadline
from app.http.disconnects import while_connected
from app.http.errors import invalid
from app.metrics.registry import ServiceMetrics
from app.registry.model_pool import Loaded, ModelPool
from app.scoring.decoders import DecodingLanes
from app.scoring.large_images import SECONDS_PER_MEGAPIXEL, LargeImages, check_pixels
from app.scoring.queue import ScoringQueue
from app.scoring.request_images import Item, Pixels, decode_batch, decoded, read_batch, source_pixels, too_many
from app.scoring.responses import answer_json
from app.scoring.schemas import ScoreQuery
from models.errors import ImageError, ScoreNotFinite
from models.images.batch import batch_of
from models.steps import Steps
from worker.settings import Settings

if TYPE_CHECKING:
    from models.anomaly.judged import Judgement
    from models.scorer import Scorer

MAX_ANSWERED = 16
"""Most images whose answer is encoded on the event loop; more images, or heat maps, take too long for it."""
MAX_EXPLAINED = 64
MAX_EXPLAINED_PIXELS = 2**20
"""Most images, and most pixels of them, in a request for heat maps: each adds an array and a picture to the answer."""


class RequestedImage(NamedTuple):
    """An image to score, uint8 ``(channels, height, width)``, with the false-alarm rate of its verdict.

    ``alpha`` is None for the default of the model.
    """

    pixels: Pixels
    alpha: float | None


@dataclass(frozen=True)
class JudgeImages:
    """Callable that returns the log-likelihood and anomaly verdict of each image in a batch.

    Two of them are equal where model and number of draws are, so that ``ScoringQueue.run_each`` can join their batches.
    """

    scorer: Scorer
    draws: int

    def __call__(self, images: Sequence[RequestedImage]) -> list[Judgement]:
        """Return the score and verdict, or the error, of each image, independent of its batch mates."""
        pixels = batch_of([image.pixels for image in images], self.scorer.preprocessing)
        return self.scorer.judge_each(pixels, [image.alpha for image in images], self.draws)


@dataclass(frozen=True)
class ScoringService:
    """Service that answers scoring requests: it decodes the images, queues them for scoring, and forms the answer."""

    settings: Settings
    pool: ModelPool
    queue: ScoringQueue
    decoders: DecodingLanes
    metrics: ServiceMetrics
    drift: DriftMonitor
    recent: RecentEvidence
    large: LargeImages

    async def score(self, ref: str, request: Request, query: ScoreQuery, timeout_ms: int | None) -> bytes:
        """Score the images in a request's body with the model ``ref``, and return the answer as JSON bytes.

        Args:
            ref: Reference of the model.
            request: The request, whose body holds the images.
            query: Options of the scores.
            timeout_ms: Deadline in milliseconds; None for the default of the service.

        Raises:
            Problem: The request is not valid, exceeds a limit, or passed its deadline.
            ScoreNotFinite: The only image of the request has no finite likelihood.
        """
        # A draw is a pass through the flow: the queue counts passes, and so does the limit of a request.
        limit = min(self.settings.max_images_per_request, self.queue.largest // query.passes)
        if limit == 0:
            raise invalid("/query/draws", f"this service takes at most {self.queue.largest} draws at once")
        if query.source is not None and not query.monitor:
            raise invalid("/query/source", "expected no source with monitor=false: it names whose drift is tested")
        caller = caller_of(request.scope).name
        # Before the body is read and decoded, so that a refusal costs little.
        self.queue.check(caller, query.passes)
        async with deadline(timeout_ms, self.settings.request_timeout_s) as limit_of_time, AsyncExitStack() as held:
            loaded = await self.pool.acquire(ref)
            # Before the work, so that a request that cannot be answered costs nothing.
            loaded.scorer.calibration.check_alpha(query.alpha, query.detail == "full")
            preprocessing = loaded.scorer.preprocessing
            if query.explain:
                loaded.scorer.require_spatial()
                area = 1 if preprocessing.tiled else preprocessing.height * preprocessing.width
                limit = min(limit, MAX_EXPLAINED, max(1, MAX_EXPLAINED_PIXELS // area))
            batch = await read_batch(request, preprocessing, limit)
            if not batch.array:
                self.queue.check(caller, query.passes * len(batch.uploads))
            await held.enter_async_context(while_connected(request))
            files = [upload.data for upload in batch.uploads]
            sizes = await source_pixels(batch, preprocessing, self.decoders.lane(files), caller)
            pixels = sum(sizes)
            if preprocessing.tiled:
                held.enter_context(self.large.hold(caller, pixels))
                limit_of_time.extend(SECONDS_PER_MEGAPIXEL * query.passes * pixels / 1e6)
                if query.explain and len(batch.uploads) > 1 and pixels > MAX_EXPLAINED_PIXELS:
                    raise too_many(1)
            elif preprocessing.fit != "exact" and not batch.array:  # the images of an array have the model's size
                check_pixels(pixels)
            items = await decode_batch(batch, preprocessing, self.decoders.lane(files, sizes), caller, limit, sizes)
            if len(items) > limit:
                raise too_many(limit)
            images = decoded(items)
            take_images(request.scope, len(items))
            judgements = await self._judge(caller, loaded, list(images.values()), query) if images else []
        judged = dict(zip(images, judgements, strict=True))
        if not (batch.many or batch.array) and isinstance(judged[0], ScoreNotFinite):
            raise judged[0]
        self._record(loaded, query, items, judged)
        if query.explain or len(items) > MAX_ANSWERED:
            return await asyncio.to_thread(answer_json, loaded, items, judged, fdr=query.fdr)
        return answer_json(loaded, items, judged, fdr=query.fdr)

    async def _judge(self, caller: str, loaded: Loaded, images: Sequence[Pixels], query: ScoreQuery) -> list[Judgement]:
        scorer = loaded.scorer
        tiled = scorer.preprocessing.tiled
        # The draws of an image in a shared batch are one turn of the thread; steps spread more of them, or the tiles of
        # a large image, over several.
        if query.detail == "basic" and not query.explain and query.draws <= scorer.at_once and not tiled:
            requested = [RequestedImage(pixels, query.alpha) for pixels in images]
            function = JudgeImages(scorer, query.draws)
            return await self.queue.run_each(caller, function, requested, query.draws, scorer.at_once)

        def work() -> Steps[list[Judgement]]:
            return (
                yield from scorer.judge_steps(
                    batch_of(images, scorer.preprocessing),
                    query.alpha,
                    query.draws,
                    gradients=query.detail == "full",
                    explain=query.explain,
                )
            )

        count = len(images)
        if tiled:
            # Each tile counts as an image, and a single large image fits into an idle queue.
            count = sum(math.ceil(image[0].size / scorer.density.step_pixels) for image in images)
            count = max(len(images), min(count, self.queue.largest // query.passes))
        return await self.queue.run(caller, work(), count * query.passes)

    def _record(
        self, loaded: Loaded, query: ScoreQuery, items: Sequence[Item], judged: Mapping[int, Judgement]
    ) -> None:
        """Count the images in the metrics, add their p-values to the drift monitor, and keep their evidence."""
        verdicts = [image.verdict for image in judged.values() if not isinstance(image, ScoreNotFinite)]
        errors = [image.slug for image in judged.values() if isinstance(image, ScoreNotFinite)]
        errors += [item.image.slug for item in items if isinstance(item.image, ImageError)]
        flagged = sum(verdict.is_anomaly for verdict in verdicts)
        self.metrics.count_images(loaded.version.name, loaded.version.version, len(verdicts), flagged)
        self.metrics.count_image_errors(errors)
        # Verdicts with gradient evidence rest on fewer calibration images, and would resemble drift among the others.
        if query.detail == "basic":
            if query.monitor:
                levels = [level for image in judged.values() for level in _white_levels(image)]
                self.drift.record(loaded, query.source, [verdict.p_value for verdict in verdicts], levels)
            self._keep(loaded, query.alpha, judged)

    def _keep(self, loaded: Loaded, alpha: float | None, judged: Mapping[int, Judgement]) -> None:
        from models.anomaly.rejudge import StoredEvidence  # noqa: PLC0415 - PyTorch, which a loaded model has imported

        scorer = loaded.scorer
        scored = [image.likelihood.evidence for image in judged.values() if not isinstance(image, ScoreNotFinite)]
        newest = [evidence for evidence in scored if evidence is not None][-MAX_KEPT:]
        images = [StoredEvidence.of(evidence, alpha, scorer.precision) for evidence in newest]
        self.recent.record(loaded.version.name, loaded.version.version, scorer.log_det_digest, images)


def _white_levels(image: Judgement) -> list[int]:
    """Return the white level of a scored image, in a list; an empty one for an image without a finite likelihood."""
    if isinstance(image, ScoreNotFinite) or image.likelihood.evidence is None:
        return []
    levels = image.likelihood.evidence.white_levels
    return [] if levels is None else levels.tolist()
