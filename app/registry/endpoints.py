"""Which models there are, and what each is."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

from app.access.permissions import MayRead
from app.calibrations.views import view_of
from app.http.dependencies import DriftMonitorDep, ModelPoolDep, RegistryDep
from app.http.errors import responses
from app.registry import schemas
from app.registry.views import detail, summary

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[MayRead])


@router.get(
    "",
    operation_id="list_models",
    summary="List the models",
    responses=responses(401, 500),
)
async def list_models(pool: ModelPoolDep) -> schemas.ModelPage:
    """Lists every model name with its versions, aliases and state; a damaged one says why it failed."""

    def read() -> schemas.ModelPage:
        return schemas.ModelPage(models=[summary(one) for one in pool.listing()])

    return await asyncio.to_thread(read)


@router.get(
    "/{ref}",
    operation_id="get_model",
    summary="Show one version of a model",
    responses=responses(401, 404, 422, 500),
)
async def get_model(ref: str, pool: ModelPoolDep, registry: RegistryDep, drift: DriftMonitorDep) -> schemas.ModelDetail:
    """Shows a version's manifest, its calibration in use and, once it is loaded, how it is served.

    `ref` is `name` (its alias `live`), `name:3` or `name@champion`.
    """

    def read() -> schemas.ModelDetail:
        version, entry = pool.find(ref)
        calibration = view_of(registry, version.name, version.version, version.calibration)
        return detail(version, calibration, entry, drift.of(version))

    return await asyncio.to_thread(read)
