from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import BaseModel, Field

from snf_app.access.permissions import MayAdminister, MayTrain
from snf_app.calibrations.views import view_of
from snf_app.http.errors import responses, unsupported_media_type
from snf_app.http.openapi import located
from snf_app.http.router import ClosedStream, Router
from snf_app.registry.views import detail
from snf_app.state import ModelUploadsDep, RegistryDep
from snf_client.schemas.base import Name
from snf_client.schemas.models import ModelDetail
from snf_models.artifacts.files import pack
from snf_models.naming import parse_ref
from snf_models.registry.calibrations import OWN

TAR = "application/x-tar"
PATH = "/v1/models"

# Plain functions: the framework runs them in threads, where disk and network may block.
router = Router(prefix=PATH, tags=["models"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": {TAR: _BINARY}}}


class ImportQuery(BaseModel):
    name: Name = Field(description="Name of which the model becomes the next version.", examples=["line-1"])
    promote: bool = Field(
        False, description="Whether it becomes live in any case; the first fit version of a name does so by itself."
    )


@router.get(
    "/{ref}/artifact",
    operation_id="export_model",
    summary="Download a model",
    dependencies=[MayTrain],
    response_class=Response,
    responses={
        **responses(401, 404, 409, 422, 500),
        200: {
            "description": "A tar archive for `POST /v1/models`, the same bytes every time.",
            "headers": {"Content-Disposition": {"description": "A name for the file.", "schema": {"type": "string"}}},
            "content": {TAR: _BINARY},
        },
    },
)
def export_model(ref: str, registry: RegistryDep) -> Response:
    """Download the files of a model version as a tar archive.

    The archive is not compressed. It contains the original calibration of the p-values, but no later ones.
    """
    name, version = registry.locate(parse_ref(ref))
    packed = pack(registry.with_calibration(name, version, OWN).path)
    headers = {
        "Content-Disposition": f'attachment; filename="{name}-{version}.tar"',
        "Content-Length": str(packed.size),
    }
    return ClosedStream(packed, headers, TAR)


@router.post(
    "",
    operation_id="import_model",
    summary="Upload a model",
    status_code=201,
    dependencies=[MayAdminister],
    responses={
        201: located("The model is registered.", "version"),
        **responses(400, 401, 408, 413, 415, 422, 429, 500, 503, 507),
    },
    openapi_extra=_BODY,
)
def import_model(
    request: Request,
    query: Annotated[ImportQuery, Query()],
    uploads: ModelUploadsDep,
    registry: RegistryDep,
    response: Response,
) -> ModelDetail:
    """Import a model from a tar archive in the request body, in the format of `GET /v1/models/{ref}/artifact`.

    It becomes the next version of the model name.

    The archive is not trusted. Only the plain files of a model are extracted. Before the model is registered, a
    separate process with limits on memory and time verifies all digests, loads the model and scores its stored image
    again. A model whose manifest says that it is unfit does not become live by itself; `unfit` says why.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != TAR:
        raise unsupported_media_type(kind, [TAR])
    version = uploads.receive(request, query.name, query.promote)
    response.headers["Location"] = f"{PATH}/{version.name}:{version.version}"
    calibration = view_of(registry, version.name, version.version, version.calibration)
    return detail(version, calibration, None)
