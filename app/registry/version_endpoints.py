"""Versions of a model: which of them an alias means, and taking them away."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from app.access.permissions import MayAdminister
from app.http.dependencies import JobStoreDep, RegistryDep
from app.http.errors import responses
from app.http.json_route import JsonRoute
from app.http.schemas import Name
from app.jobs.in_use import refuse_in_use
from app.registry.schemas import Aliases, AliasTarget

# Plain functions: the framework runs them in threads, where disk and job store may block.
router = APIRouter(prefix="/v1/models/{name}", tags=["models"], dependencies=[MayAdminister], route_class=JsonRoute)

Alias = Annotated[Name, Path(description="`live` is what the plain name means.", examples=["champion"])]
Version = Annotated[int, Path(ge=1, lt=10**9, examples=[3])]


@router.put(
    "/aliases/{alias}",
    operation_id="move_alias",
    summary="Point an alias at a version",
    responses=responses(401, 404, 413, 415, 422, 429, 500),
)
def move_alias(name: str, alias: Alias, target: AliasTarget, registry: RegistryDep) -> Aliases:
    """Moves an alias, or makes it; `previous` is what puts it back with the same call.

    Scores of the alias go over to the version within about two seconds, once it is loaded; one that cannot be loaded
    does not take over.
    """
    previous = registry.set_alias(name, alias, target.version)
    return Aliases(name=name, aliases=registry.aliases(name), previous=previous)


@router.delete(
    "/aliases/{alias}",
    operation_id="delete_alias",
    summary="Take an alias away",
    status_code=204,
    response_class=Response,
    responses=responses(401, 404, 409, 422, 500),
)
def delete_alias(name: str, alias: Alias, registry: RegistryDep) -> None:
    """Takes an alias away; its version stays. 409 for `live`, which every model has."""
    registry.remove_alias(name, alias)


@router.delete(
    "/versions/{version}",
    operation_id="delete_version",
    summary="Delete a version",
    status_code=204,
    response_class=Response,
    responses=responses(401, 404, 409, 422, 500, 503),
)
def delete_version(name: str, version: Version, registry: RegistryDep, jobs: JobStoreDep) -> None:
    """Deletes a version with its calibrations; 409 while an alias points at it or a job that is not over uses it.

    Models that ship with the product stay, with 409. The number is never given to another version.
    """
    ref = f"{name}:{version}"
    refuse_in_use(jobs, lambda job: job.model == ref, "version-in-use", "The version is in use", ref)
    registry.remove(name, version)


@router.delete(
    "",
    operation_id="delete_model",
    summary="Delete a model",
    status_code=204,
    response_class=Response,
    responses=responses(401, 404, 409, 422, 500, 503),
)
def delete_model(name: Name, registry: RegistryDep, jobs: JobStoreDep) -> None:
    """Deletes all versions of a model, the live one too, with calibrations and aliases; 409 while a job that is not
    over uses one or makes another.

    Models that ship with the product stay, with 409. The numbers are never given to other versions.
    """
    refuse_in_use(jobs, lambda job: job.model.partition(":")[0] == name, "model-in-use", "The model is in use", name)
    registry.remove_model(name)
