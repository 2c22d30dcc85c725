"""Endpoints that score images, and that show the anomaly statistics of the calibration images."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from snf_app.http.admission import TimeoutMs, deadline
from snf_app.http.openapi import BINARY, FILES, form
from snf_app.http.router import Router
from snf_app.registry.model_pool import ServedModel
from snf_app.scoring.request_images import FIELD, MEDIA_TYPES, NPY
from snf_app.state import ModelPoolDep, ScoringServiceDep, SettingsDep
from snf_client.schemas.scores import Quantile, Reference, ScoreQuery, Scores

router = Router("/v1/models/{ref}", "scores")

_IMAGES = FILES | {"description": "One or many image files: PNG, JPEG, WebP, BMP, TIFF or GIF."}
_BODY = {"required": True, "content": form([FIELD], images=_IMAGES) | dict.fromkeys((*MEDIA_TYPES, NPY), BINARY)}


@router.post(
    "/score", "Score images", role="score", queued=True, errors=(404, 409, 504), body=_BODY, response_model=Scores
)
async def score_images(
    ref: str,
    request: Request,
    scoring: ScoringServiceDep,
    query: Annotated[ScoreQuery, Query()],
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Score images: return their log-likelihoods and whether they are anomalies.

    Log-likelihoods are exact and in nats. Each verdict has a p-value.

    An image has the same score alone, in any batch and in any order. A bad file never fails the others: the answer is
    200 if at least one image was scored, and 422 if none was. 409 `no-live-version` for the plain name of a model of
    which all versions are unfit; `name:1` scores.
    """
    # Encoded by the service: FastAPI would validate the answer once more.
    content = await scoring.answer(ref, request, query, timeout_ms)
    return Response(content, media_type="application/json")


Bins = Annotated[int, Query(ge=10, le=200, description="Number of bins.")]


@router.get("/reference", "Show the distribution of the calibration images", tags=["models"], errors=(404, 409, 504))
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


def _reference(loaded: ServedModel, bins: int) -> Reference:
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
