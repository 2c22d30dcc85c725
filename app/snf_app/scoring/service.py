"""Service that reads, decodes and scores the images of a request, and encodes the answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.requests import Request

from snf_app.access.authentication import take_images
from snf_app.http.admission import while_connected
from snf_app.scoring.decoders import DecodingLanes
from snf_app.scoring.judging_pipeline import Admission, Judging
from snf_app.scoring.large_images import check_pixels
from snf_app.scoring.request_images import Item, decode_batch, decoded, read_batch, source_pixels, too_many
from snf_app.scoring.responses import answer_json
from snf_app.scoring.schemas import ScoreQuery
from snf_models.errors import ImageError

MAX_ANSWERED = 16
"""Most images whose answer is encoded on the event loop; more images, or heat maps, take too long for it."""
MAX_EXPLAINED = 64
MAX_EXPLAINED_PIXELS = 2**20
"""Most images, and most pixels of them, in a request for heat maps: each adds an array and a picture to the answer."""


@dataclass(frozen=True)
class ScoringService:
    """Service that decodes the images of a request, has them scored, and encodes the answer."""

    judging: Judging
    decoders: DecodingLanes

    async def score(self, ref: str, request: Request, query: ScoreQuery, timeout_ms: int | None) -> bytes:
        """Return JSON; raise ``Problem`` for the request, ``ImageError`` if its only image is not judged."""
        async with self.judging.admit(request.scope, ref, query, timeout_ms) as admission:
            items, many = await self._decoded(admission, request, query)
            images = decoded(items)
            take_images(request.scope, len(items))
            judgements = await self.judging.judge(admission, list(images.values()), query)
        if not many and isinstance(judgements[0], ImageError):
            raise judgements[0]
        loaded = admission.loaded
        failed = [item.image.slug for item in items if isinstance(item.image, ImageError)]
        self.judging.record(loaded, query, judgements, failed)
        judged = dict(zip(images, judgements, strict=True))
        if query.explain or len(items) > MAX_ANSWERED:
            return await asyncio.to_thread(answer_json, loaded, items, judged, fdr=query.fdr)
        return answer_json(loaded, items, judged, fdr=query.fdr)

    async def _decoded(self, admission: Admission, request: Request, query: ScoreQuery) -> tuple[list[Item], bool]:
        """Return the decoded images, and whether they fail individually; else raise ``ImageError``."""
        caller, limit, scorer = admission.caller, admission.limit, admission.loaded.scorer
        preprocessing = scorer.preprocessing
        if query.explain:
            scorer.require_spatial()
            area = 1 if preprocessing.tiled else preprocessing.height * preprocessing.width
            limit = min(limit, MAX_EXPLAINED, max(1, MAX_EXPLAINED_PIXELS // area))
        batch = await read_batch(request, preprocessing, limit)
        if not batch.array:
            self.judging.queue.check(caller, query.draws * len(batch.uploads))
        await admission.held.enter_async_context(while_connected(request))
        files = [upload.data for upload in batch.uploads]
        sizes = await source_pixels(batch, preprocessing, self.decoders.lane(files), caller)
        pixels = sum(sizes)
        if preprocessing.tiled:
            self.judging.hold_large(admission, query, pixels)
            if query.explain and len(batch.uploads) > 1 and pixels > MAX_EXPLAINED_PIXELS:
                raise too_many(1)
        elif preprocessing.fit != "exact" and not batch.array:  # the images of an array have the model's size
            check_pixels(pixels)
        items = await decode_batch(batch, preprocessing, self.decoders.lane(files, sizes), caller, limit, sizes)
        if len(items) > limit:
            raise too_many(limit)
        return items, batch.many or batch.array
