"""Audits: whether a model's scores are what they are without anything cached."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query

from app.access import MayScore
from app.audit_schemas import Audit
from app.audit_views import audit_view
from app.deadline import TimeoutMs, deadline
from app.house import InHouse
from app.problems import invalid, responses

COST = 16
"""What an audited image counts in the queue: a pass in float64, layer by layer, takes so many times that of an engine.

It is half of a batch, so that single images of others wait for two audited ones at most.
"""

router = APIRouter(prefix="/v1/models/{ref}/audit", tags=["models"], dependencies=[MayScore])

Count = Annotated[int, Query(ge=1, le=16, description="Number of images; each is a pass in float64.")]


@router.get(
    "",
    operation_id="audit_model",
    summary="Compute scores again without anything cached",
    responses=responses(401, 404, 422, 429, 500, 503, 504),
)
async def audit_model(ref: str, house: InHouse, n: Count = 4, timeout_ms: TimeoutMs = None) -> Audit:
    """Scores stored images twice: by the engine in use, and by the flow as it was trained, in float64.

    The second pass takes nothing that was cached or frozen: each layer computes its own log-determinant, determinants
    included. Where fewer images are stored with the model, samples of it follow, the same every time.
    """
    limit = house.settings.queue_images // COST
    if n > limit:
        raise invalid("/query/n", f"this service audits at most {limit} images at once")
    async with deadline(timeout_ms, house.settings.request_timeout_s):
        loaded = await house.serving.acquire(ref)
        from models.scoring.audit import audit  # noqa: PLC0415 - it imports PyTorch, which is loaded by now

        audited = await house.lane.run_each(partial(audit, loaded.scorer), range(n), COST)
        return audit_view(loaded, audited)
