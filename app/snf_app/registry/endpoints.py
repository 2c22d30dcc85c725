from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Path, Query, Response

from snf_app.access.permissions import MayAdminister, MayRead
from snf_app.calibrations.views import view_of
from snf_app.http.errors import responses
from snf_app.http.router import JsonRoute, PageQuery, Router
from snf_app.jobs.in_use import refuse_used_model, refuse_used_version
from snf_app.registry.views import detail, summary, unfit_reasons
from snf_app.state import DriftMonitorDep, JobStoreDep, ModelPoolDep, RegistryDep, SettingsDep
from snf_client.schemas.base import Name
from snf_client.schemas.models import Aliases, AliasTarget, ModelDetail, ModelPage
from snf_models.disk import locked

router = Router(prefix="/v1/models", tags=["models"])
versions_router = Router(
    prefix="/v1/models/{name}", tags=["models"], dependencies=[MayAdminister], route_class=JsonRoute
)

Alias = Annotated[Name, Path(description="`live` is the version of the plain name.", examples=["champion"])]
Version = Annotated[int, Path(ge=1, lt=10**9, examples=[3])]


@router.get(
    "",
    operation_id="list_models",
    summary="List the models",
    dependencies=[MayRead],
    responses=responses(401, 422, 500),
)
async def list_models(
    pool: ModelPoolDep, registry: RegistryDep, drift: DriftMonitorDep, query: Annotated[PageQuery, Query()]
) -> ModelPage:
    """List registered models by name, with their versions, aliases (names of versions) and loading state.

    `next` in the answer is the value of `after` for the next page, or null on the last page. A model that failed to
    load, and one of which no version is live, has a `reason`.
    """

    def read() -> ModelPage:
        names, after = query.page(registry.names())
        return ModelPage(models=[summary(model, drift) for model in pool.listing(names)], next=after)

    # Not in the threads of the framework, which uploads may all hold.
    return await asyncio.to_thread(read)


@router.get(
    "/{ref}",
    operation_id="get_model",
    summary="Show one version of a model",
    dependencies=[MayRead],
    responses=responses(401, 404, 409, 422, 500),
)
async def get_model(ref: str, pool: ModelPoolDep, registry: RegistryDep, drift: DriftMonitorDep) -> ModelDetail:
    """Show the details of one version of a model, chosen by version number or alias.

    It has the metadata (manifest), the active calibration and, once the version is loaded, how it computes scores.

    `ref` is `name` (its alias `live`), `name:3` or `name@champion`. 409 `no-live-version` for the name of a model of
    which all versions are unfit; `name:3` shows one of them.
    """

    def read() -> ModelDetail:
        version, entry = pool.find(ref)
        calibration = view_of(registry, version.name, version.version, version.calibration)
        return detail(version, calibration, entry, drift.of(version))

    return await asyncio.to_thread(read)


# Plain functions: the framework runs them in threads, where disk and job store may block.
@versions_router.put(
    "/aliases/{alias}",
    operation_id="move_alias",
    summary="Point an alias at a version",
    responses=responses(401, 404, 409, 413, 415, 422, 429, 500, 507),
)
def move_alias(name: Name, alias: Alias, target: AliasTarget, registry: RegistryDep) -> Aliases:
    """Create an alias (a name for one version) of a model, or point the alias at another version.

    To undo the change, send the `previous` version of the answer. It is null if the alias is new: then delete the
    alias.

    Requests for the alias use the new version within about two seconds, as soon as it is loaded. A version that cannot
    be loaded does not take over. An unfit version can be made live this way; the answer says why it is unfit. A model
    has at most 100 aliases besides `live`; 409 for another one.
    """
    previous = registry.set_alias(name, alias, target.version)
    unfit = unfit_reasons(registry.unfit(name, target.version))
    return Aliases(name=name, aliases=registry.aliases(name), previous=previous, unfit=unfit)


@versions_router.delete(
    "/aliases/{alias}",
    operation_id="delete_alias",
    summary="Remove an alias",
    status_code=204,
    response_class=Response,
    responses=responses(401, 404, 409, 422, 500, 507),
)
def delete_alias(name: Name, alias: Alias, registry: RegistryDep) -> None:
    """Delete an alias of a model; the version that it points at stays.

    409 for `live` of a fit version. Without `live` of an unfit version, the first fit version is live, or none.
    """
    registry.remove_alias(name, alias)


@versions_router.delete(
    "/versions/{version}",
    operation_id="delete_version",
    summary="Delete a version",
    status_code=204,
    response_class=Response,
    responses=responses(401, 404, 409, 422, 500, 503, 507),
)
def delete_version(
    name: Name, version: Version, registry: RegistryDep, jobs: JobStoreDep, settings: SettingsDep
) -> None:
    """Delete a model version with its calibrations.

    The answer is 409 if an alias points at the version or an unfinished job uses it.

    Models that ship with the product cannot be deleted (409). The number is never used again.
    """
    with locked(settings.jobs_dir):
        refuse_used_version(jobs, name, version)
        registry.remove(name, version)


# The path is that of `get_model`, so its parameter has the same name.
@router.delete(
    "/{ref}",
    operation_id="delete_model",
    summary="Delete a model",
    status_code=204,
    response_class=Response,
    dependencies=[MayAdminister],
    responses=responses(401, 404, 409, 422, 500, 503, 507),
)
def delete_model(ref: Name, registry: RegistryDep, jobs: JobStoreDep, settings: SettingsDep) -> None:
    """Delete a model with all its versions, calibrations and aliases.

    The answer is 409 if an unfinished job uses or trains the model.

    `ref` is the plain name of the model. Models that ship with the product cannot be deleted (409). The numbers are
    never used again.
    """
    with locked(settings.jobs_dir):
        refuse_used_model(jobs, ref)
        registry.remove_model(ref)
