"""Scoring: exact log-likelihoods and calibrated verdicts of the images in a request."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from app.access.callers import caller_of
from app.access.permissions import MayScore
from app.access.rate_limits import take_images
from app.drift.monitor import SOURCE
from app.http import schemas
from app.http.deadline import TimeoutMs, deadline
from app.http.dependencies import DecodersDep, DriftMonitorDep, MetricsDep, ModelPoolDep, ScoringQueueDep, SettingsDep
from app.http.errors import invalid, responses
from app.registry.model_pool import Loaded
from app.scoring.queue import ScoringQueue
from app.scoring.record_scores import record_scores
from app.scoring.request_images import (
    FIELD,
    IMAGE_TYPES,
    MULTIPART,
    NPY,
    Pixels,
    decode_batch,
    decoded,
    read_batch,
    too_many,
)
from app.scoring.responses import Outcome, Scored, answer_json, outcomes
from app.scoring.service import Asked, PlainScores
from models.errors import ScoreNotFinite
from models.steps import Steps

router = APIRouter(tags=["scores"], dependencies=[MayScore])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "required": True,
    "content": {
        MULTIPART: {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {
                    FIELD: {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "binary"},
                        "description": "One or many image files: PNG, JPEG, WebP or BMP.",
                    }
                },
            }
        },
        **dict.fromkeys((*IMAGE_TYPES, NPY), _BINARY),
    },
}


BACKWARD_PASSES = 5
"""What a backward pass costs, in forward ones."""
MAX_ANSWERED = 16
"""Images whose answer is written on the event loop; that of more, or of heat maps, takes time."""
MAX_EXPLAINED = 64
MAX_EXPLAINED_PIXELS = 2**20
"""Images, and their pixels, of a request that wants heat maps: each is an array and a picture in the answer."""


class ScoreQuery(BaseModel):
    """The query of a scoring request; unknown parameters are refused."""

    model_config = ConfigDict(extra="forbid")

    alpha: float | None = Field(
        None, gt=0, lt=1, description="False-alarm rate of the verdicts. Default: 0.01 where the model can."
    )
    draws: int = Field(1, ge=1, le=256, description="Dequantisation draws an image to average over.")
    fdr: bool = Field(False, description="Add Benjamini-Hochberg q-values over the images of this request.")
    detail: Literal["basic", "full"] = Field(
        "basic",
        description="`full`: verdicts that also look at gradients, of the model's weights and of the pixels, several "
        "times slower; not with cross-conformal calibrations, which are those of fewer than 400 images.",
    )
    explain: bool = Field(False, description="Add a heat map to every result.")
    source: str | None = Field(
        None, pattern=SOURCE, description="Where the images come from, a camera or a lot: drift is watched by source."
    )

    @property
    def passes(self) -> int:
        """What an image costs, in forward passes."""
        backward = BACKWARD_PASSES if self.detail == "full" else 0
        return self.draws + backward + (1 + backward if self.explain else 0)


@router.post(
    "/v1/models/{ref}/score",
    operation_id="score_images",
    summary="Score images",
    response_model=schemas.Scores,
    responses=responses(400, 401, 404, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra={"requestBody": _BODY},
)
async def score_images(
    ref: str,
    request: Request,
    settings: SettingsDep,
    pool: ModelPoolDep,
    queue: ScoringQueueDep,
    decoders: DecodersDep,
    metrics: MetricsDep,
    drift: DriftMonitorDep,
    query: Annotated[ScoreQuery, Query()],
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Scores one or many images.

    The same image gives the same number alone, in any batch and in any order. One bad file never fails the
    others: the answer is 200 while at least one image was scored, and 422 when none was.
    """
    # Every draw is a pass through the flow, so it is passes that the queue holds and that a request is limited in.
    limit = min(settings.max_images_per_request, queue.largest // query.passes)
    if limit == 0:
        raise invalid("/query/draws", f"this service takes at most {queue.largest} draws at once")
    caller = caller_of(request.scope).name
    # Before the body is read and decoded, so that a refusal costs little.
    queue.check(caller, query.passes)
    async with deadline(timeout_ms, settings.request_timeout_s):
        loaded = await pool.acquire(ref)
        # Before the work, so that what cannot be answered costs nothing.
        loaded.scorer.calibration.check_alpha(query.alpha, query.detail == "full")
        if query.explain:
            loaded.scorer.require_places()
            area = math.prod(loaded.scorer.preprocessing.shape[1:])
            limit = min(limit, MAX_EXPLAINED, max(1, MAX_EXPLAINED_PIXELS // area))
        batch = await read_batch(request, loaded.scorer.preprocessing, limit)
        if not batch.array:
            queue.check(caller, query.passes * len(batch.uploads))
        items = await decode_batch(batch, loaded.scorer.preprocessing, decoders, caller, limit)
        if len(items) > limit:
            raise too_many(limit)
        images = decoded(items)
        take_images(request.scope, len(items))
        found = await _score(queue, caller, loaded, list(images.values()), query) if images else []
    scored = dict(zip(images, found, strict=True))
    if not (batch.many or batch.array) and isinstance(scored[0], ScoreNotFinite):
        raise scored[0]
    record_scores(metrics, loaded, items, scored)
    # Verdicts with gradients rest on fewer calibration images, and would look like drift among the others.
    if query.detail == "basic":
        drift.record(loaded, query.source, [one.verdict.p_value for one in scored.values() if isinstance(one, Scored)])
    if query.explain or len(items) > MAX_ANSWERED:
        content = await asyncio.to_thread(answer_json, loaded, items, scored, fdr=query.fdr)
    else:
        content = answer_json(loaded, items, scored, fdr=query.fdr)
    return Response(content, media_type="application/json")


async def _score(
    queue: ScoringQueue, caller: str, loaded: Loaded, images: Sequence[Pixels], query: ScoreQuery
) -> list[Outcome]:
    scorer = loaded.scorer
    # The draws of an image in a shared batch are one turn of the thread; steps spread more of them over several.
    if query.detail == "basic" and not query.explain and query.draws <= scorer.at_once:
        asked = [Asked(pixels, query.alpha) for pixels in images]
        function = PlainScores(scorer, query.draws)
        return await queue.run_each(caller, function, asked, query.draws, scorer.at_once)

    def work() -> Steps[list[Outcome]]:
        full = query.detail == "full"
        pixels = np.stack(images)
        found = yield from scorer.score_steps(pixels, query.draws, thorough=full)
        maps = None
        if query.explain:
            yield
            maps = yield from scorer.heat_map_steps(pixels, gradients=full)
        return outcomes(scorer, found, [query.alpha] * len(found), maps)

    return await queue.run(caller, work(), len(images) * query.passes)
