"""Audits: whether a model's scores are what they are without anything cached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request

from app.access.callers import caller_of
from app.access.permissions import MayScore
from app.audits.schemas import Audit
from app.audits.views import audit_view
from app.http.deadline import TimeoutMs, deadline
from app.http.dependencies import ModelPoolDep, ScoringQueueDep, SettingsDep
from app.http.errors import responses
from models.steps import Steps

if TYPE_CHECKING:
    from models.audit import Audited
    from models.scorer import Scorer

COST = 16
"""Images that an audited one counts in the queue: a pass in float64, layer by layer, takes so many times as long."""

router = APIRouter(prefix="/v1/models/{ref}/audit", tags=["models"], dependencies=[MayScore])

Count = Annotated[int, Query(ge=1, le=16, description="Number of images; each is a pass in float64.")]


@router.get(
    "",
    operation_id="audit_model",
    summary="Compute scores again without anything cached",
    responses=responses(401, 404, 422, 429, 500, 503, 504),
)
async def audit_model(
    ref: str,
    request: Request,
    settings: SettingsDep,
    pool: ModelPoolDep,
    queue: ScoringQueueDep,
    n: Count = 4,
    timeout_ms: TimeoutMs = None,
) -> Audit:
    """Scores stored images twice: by the engine in use, and by the flow as it was trained, in float64.

    The second pass takes nothing that was cached or frozen: each layer computes its own log-determinant, determinants
    included. Where fewer images are stored with the model, samples of it follow, the same every time.
    """
    async with deadline(timeout_ms, settings.request_timeout_s):
        loaded = await pool.acquire(ref)
        cost = min(n * COST, queue.largest)
        return audit_view(loaded, await queue.run(caller_of(request.scope).name, _audit(loaded.scorer, n), cost))


def _audit(scorer: Scorer, count: int) -> Steps[list[Audited]]:
    """Return the audits of so many images, one a step."""
    from models.audit import audit  # noqa: PLC0415 - it imports PyTorch, which is loaded by now

    audited = []
    for index in range(count):
        if index:
            yield
        audited.append(audit(scorer, index))
    return audited
