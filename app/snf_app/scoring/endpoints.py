"""Endpoint that scores images: exact log-likelihoods and calibrated anomaly verdicts."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from snf_app.access.permissions import MayScore
from snf_app.http.admission import TimeoutMs
from snf_app.http.errors import responses
from snf_app.http.router import Router
from snf_app.scoring.request_images import FIELD, MEDIA_TYPES, MULTIPART, NPY
from snf_app.scoring.schemas import ScoreQuery, Scores
from snf_app.state import ScoringServiceDep

router = Router(tags=["scores"], dependencies=[MayScore])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "required": True,
    "content": {
        MULTIPART: {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "additionalProperties": False,
                "properties": {
                    FIELD: {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "binary"},
                        "description": "One or many image files: PNG, JPEG, WebP, BMP, TIFF or GIF.",
                    }
                },
            }
        },
        **dict.fromkeys((*MEDIA_TYPES, NPY), _BINARY),
    },
}


@router.post(
    "/v1/models/{ref}/score",
    operation_id="score_images",
    summary="Score images",
    response_model=Scores,
    responses=responses(400, 401, 404, 409, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra={"requestBody": _BODY},
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
    content = await scoring.score(ref, request, query, timeout_ms)
    return Response(content, media_type="application/json")
