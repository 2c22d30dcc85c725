"""The images that a model's verdicts are ranks among."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query

from app.access.permissions import MayRead
from app.http.deadline import TimeoutMs, deadline
from app.http.dependencies import ModelPoolDep, SettingsDep
from app.http.errors import responses
from app.registry.model_pool import Loaded
from app.scoring.schemas import Quantile, Reference

router = APIRouter(prefix="/v1/models/{ref}/reference", tags=["models"], dependencies=[MayRead])

Bins = Annotated[int, Query(ge=10, le=200, description="Number of bins.")]


@router.get(
    "",
    operation_id="get_reference",
    summary="Show how strange the calibration images are",
    responses=responses(401, 404, 422, 500, 503, 504),
)
async def get_reference(
    ref: str, settings: SettingsDep, pool: ModelPoolDep, bins: Bins = 60, timeout_ms: TimeoutMs = None
) -> Reference:
    """A histogram of the statistic T of the calibration images, among which a verdict's p-value is a rank.

    T is the `anomaly.statistic` of a score, nats, larger is stranger. With several folds the images of all are counted
    together.
    """
    async with deadline(timeout_ms, settings.request_timeout_s):
        loaded = await pool.acquire(ref)
        return await asyncio.to_thread(_reference, loaded, bins)


def _reference(loaded: Loaded, bins: int) -> Reference:
    calibration = loaded.scorer.calibration
    found = calibration.distribution(bins)
    return Reference(
        model=loaded.version.name,
        version=loaded.version.version,
        calibration=loaded.version.calibration,
        count=calibration.images,
        smallest_p=calibration.smallest_p,
        edges=found.edges.tolist(),
        counts=found.counts.tolist(),
        quantiles=[Quantile(alpha=alpha, statistic=statistic) for alpha, statistic in found.quantiles.items()],
    )
