"""Endpoints that show drift of the images scored by a model version, and acknowledge its alarms."""

from __future__ import annotations

from fastapi import Request

from snf_app.access.permissions import caller_of
from snf_app.http.errors import Problem
from snf_app.http.router import Router
from snf_app.state import DriftMonitorDep, ModelPoolDep
from snf_client.schemas.models import DriftReport

# Plain functions: the framework runs them in threads, where bets and disk may block.
router = Router("/v1/models/{ref}/drift", "drift")


@router.get("", "Show drift of a model", errors=(404, 409))
def get_drift(ref: str, pool: ModelPoolDep, monitor: DriftMonitorDep) -> DriftReport:
    """Show whether the images that a model has scored differ from its calibration images.

    Only images with a `source` count, which this process of the service scored.

    All sources together come first, then each source. The model version has the same list in its field `drift`.
    """
    version, _ = pool.find(ref)
    return DriftReport(
        model=version.name, version=version.version, calibration=version.calibration, drift=monitor.of(version)
    )


@router.delete("", "Acknowledge drift of all sources together", role="admin", errors=(404, 409, 507))
def acknowledge_drift(ref: str, request: Request, pool: ModelPoolDep, monitor: DriftMonitorDep) -> None:
    """End the drift alarm that covers all sources of a model's images together, and restart its test.

    The test starts anew at the next image. Alarms and tests of single sources stay.

    Streams are those of the active calibration, in this process of the service. 404 `drift-not-found` if no image was
    scored since the last acknowledgement.
    """
    _acknowledge(ref, None, request, pool, monitor)


@router.delete("/{source:path}", "Acknowledge drift of a source", role="admin", errors=(404, 409, 507))
def acknowledge_source_drift(
    ref: str, source: str, request: Request, pool: ModelPoolDep, monitor: DriftMonitorDep
) -> None:
    """End a model's drift alarm for one image source, such as a camera, and restart the source's drift test.

    The test starts anew at the next image of the source. The alarm and the test of all sources together stay.

    `source` is the label that requests name, also with slashes: `line-1/left`. 404 `drift-not-found` for a source of
    which no image was scored since the last acknowledgement.
    """
    _acknowledge(ref, source, request, pool, monitor)


def _acknowledge(ref: str, source: str | None, request: Request, pool: ModelPoolDep, monitor: DriftMonitorDep) -> None:
    version, _ = pool.find(ref)
    caller = caller_of(request.scope)
    if not monitor.acknowledge(version, source, caller.label or caller.name):
        images = "no image with a source" if source is None else f"no image of the source {source!r}"
        raise Problem(
            "drift-not-found",
            f"{images} was scored by {version.name}:{version.version} with calibration {version.calibration} since "
            "the last acknowledgement",
            pointer="/path/ref" if source is None else "/path/source",
        )
