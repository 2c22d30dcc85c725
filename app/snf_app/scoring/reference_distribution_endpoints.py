"""Endpoint for the distribution of the anomaly statistic over a model's calibration images."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Query

from snf_app.access.permissions import MayRead
from snf_app.http.admission import TimeoutMs, deadline
from snf_app.http.errors import responses
from snf_app.http.router import Router
from snf_app.registry.loaded import Loaded
from snf_app.scoring.schemas import Quantile, Reference
from snf_app.state import ModelPoolDep, SettingsDep

router = Router(prefix="/v1/models/{ref}/reference", tags=["models"], dependencies=[MayRead])

Bins = Annotated[int, Query(ge=10, le=200, description="Number of bins.")]


@router.get(
    "",
    operation_id="get_reference",
    summary="Show the distribution of the calibration images",
    responses=responses(401, 404, 409, 422, 500, 503, 504),
)
async def get_reference(
    ref: str, settings: SettingsDep, pool: ModelPoolDep, bins: Bins = 60, timeout_ms: TimeoutMs = None
) -> Reference:
    """Return a histogram of the anomaly statistic T over a model's calibration images.

    T is the `anomaly.statistic` of a score, in nats; larger is more anomalous. The p-value of an image is the rank of
    its T among these images. The images of all folds are counted together.
    """
    async with deadline(timeout_ms, settings.request_timeout_s):
        loaded = await pool.acquire(ref)
        return await asyncio.to_thread(_reference, loaded, bins)


def _reference(loaded: Loaded, bins: int) -> Reference:
    calibration = loaded.scorer.calibration
    distribution = calibration.distribution(bins)
    return Reference(
        model=loaded.version.name,
        version=loaded.version.version,
        calibration=loaded.version.calibration,
        count=calibration.images,
        smallest_p=calibration.smallest_p,
        edges=distribution.edges.tolist(),
        counts=distribution.counts.tolist(),
        quantiles=[Quantile(alpha=alpha, statistic=statistic) for alpha, statistic in distribution.quantiles.items()],
    )
