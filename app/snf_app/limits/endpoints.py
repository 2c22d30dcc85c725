"""Endpoints for detection limits: the sizes of the smallest defects that a model finds, measured by jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response

from snf_app.http.openapi import sends
from snf_app.http.router import Router
from snf_app.state import RegistryDep
from snf_client.schemas.limits import LimitList, LimitView
from snf_models.limits.card import limit_chart
from snf_models.naming import parse_ref

# Plain functions: the framework runs them in threads, where the disk may block.
router = Router("/v1/models/{ref}/limits", "limits")

Number = Annotated[int, Path(ge=1, lt=10**9, description="Limits are numbered from 1.", examples=[1])]
SVG = "image/svg+xml"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


@router.get("", "List the detection limits of a model", errors=(404, 409))
def list_limits(ref: str, registry: RegistryDep) -> LimitList:
    """List the detection limits of a model version, newest first.

    A detection limit is the size of the smallest defects that the model finds.

    A job of type `limit` measures one. Each belongs to the calibration whose p-values counted.
    """
    name, version = registry.locate(parse_ref(ref))
    active = registry.calibrations(name, version).active()
    limits = [
        LimitView(number=number, in_use=record.calibration == active, limit=record)
        for number, record in reversed(registry.limits(name, version).readable().items())
    ]
    return LimitList(model=name, version=version, active=active, limits=limits)


@router.get("/{number}", "Show a detection limit of a model", errors=(404, 409))
def get_limit(ref: str, number: Number, registry: RegistryDep) -> LimitView:
    """Show one detection limit of a model version, the size of the smallest defects that the version finds.

    It has the number of images, the kinds of defects, the share of defects found at each size with its bounds, and the
    limits.
    """
    name, version = registry.locate(parse_ref(ref))
    record = registry.limits(name, version).record(number)
    active = registry.calibrations(name, version).active()
    return LimitView(number=number, in_use=record.calibration == active, limit=record)


@router.get(
    "/{number}/chart",
    "Draw a detection limit of a model",
    errors=(404, 409),
    **sends("The picture.", texts={SVG: "<svg ..."}),
)
def get_limit_chart(ref: str, number: Number, registry: RegistryDep) -> Response:
    """Return an SVG chart of the share of defects that a model version finds at each defect size.

    It shows 95 % bounds and the goal of 90 %.
    """
    name, version = registry.locate(parse_ref(ref))
    record = registry.limits(name, version).record(number)
    return Response(limit_chart(record), media_type=SVG, headers=HEADERS)
