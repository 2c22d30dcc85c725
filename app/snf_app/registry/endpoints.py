from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import Path, Query, Request, Response
from markdown_it import MarkdownIt
from pydantic import BaseModel, Field

from snf_app.calibrations.service import view_of
from snf_app.http.errors import unsupported_media_type
from snf_app.http.openapi import BINARY, created, sends
from snf_app.http.router import ClosedStream, PageQuery, Router
from snf_app.jobs.service import refuse_used_model, refuse_used_version
from snf_app.registry.service import detail, summary, unfit_reasons
from snf_app.state import DriftMonitorDep, JobStoreDep, ModelPoolDep, ModelUploadsDep, RegistryDep, SettingsDep
from snf_client.schemas.base import Name
from snf_client.schemas.models import Aliases, AliasTarget, ModelDetail, ModelPage
from snf_models.artifacts.files import SAMPLES, pack, read_file
from snf_models.disk import locked
from snf_models.limits.card import card_text
from snf_models.naming import parse_ref
from snf_models.registry.calibrations import OWN
from snf_models.registry.registry import Registry

router = Router("/v1/models", "models")

Alias = Annotated[Name, Path(description="`live` is the version of the plain name.", examples=["champion"])]
Version = Annotated[int, Path(ge=1, lt=10**9, examples=[3])]


@router.get("", "List the models")
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


@router.get("/{ref}", "Show one version of a model", errors=(404, 409))
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
@router.put("/{name}/aliases/{alias}", "Point an alias at a version", role="admin", errors=(404, 409, 507))
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


@router.delete("/{name}/aliases/{alias}", "Remove an alias", role="admin", errors=(404, 409, 507))
def delete_alias(name: Name, alias: Alias, registry: RegistryDep) -> None:
    """Delete an alias of a model; the version that it points at stays.

    409 for `live` of a fit version. Without `live` of an unfit version, the first fit version is live, or none.
    """
    registry.remove_alias(name, alias)


@router.delete("/{name}/versions/{version}", "Delete a version", role="admin", errors=(404, 409, 507))
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
@router.delete("/{ref}", "Delete a model", role="admin", errors=(404, 409, 507))
def delete_model(ref: Name, registry: RegistryDep, jobs: JobStoreDep, settings: SettingsDep) -> None:
    """Delete a model with all its versions, calibrations and aliases.

    The answer is 409 if an unfinished job uses or trains the model.

    `ref` is the plain name of the model. Models that ship with the product cannot be deleted (409). The numbers are
    never used again.
    """
    with locked(settings.jobs_dir):
        refuse_used_model(jobs, ref)
        registry.remove_model(ref)


TAR = "application/x-tar"


class ImportQuery(BaseModel):
    name: Name = Field(description="Name of which the model becomes the next version.", examples=["line-1"])
    promote: bool = Field(
        False, description="Whether it becomes live in any case; the first fit version of a name does so by itself."
    )


@router.get(
    "/{ref}/artifact",
    "Download a model",
    role="train",
    errors=(404, 409),
    **sends(
        "A tar archive for `POST /v1/models`, the same bytes every time.",
        TAR,
        headers={"Content-Disposition": {"description": "A name for the file.", "schema": {"type": "string"}}},
    ),
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
    "Upload a model",
    role="admin",
    errors=(507,),
    **created(201, "The model is registered.", "version"),
    body={"required": True, "content": {TAR: BINARY}},
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
    response.headers["Location"] = f"/v1/models/{version.name}:{version.version}"
    calibration = view_of(registry, version.name, version.version, version.calibration)
    return detail(version, calibration, None)


CARD_HEADERS = {
    # Cards of models from elsewhere are not trusted: a browser must load and run nothing.
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
Form = Annotated[
    Literal["markdown", "html"],
    Query(description="`html`: a fragment for a page, without images; HTML in the card is shown as text."),
]


@router.get(
    "/{ref}/card",
    "Read the model card",
    errors=(404, 409),
    **sends("The card.", texts={"text/markdown": "# Model card\n\nA ...", "text/html": "<h1>Model card</h1>\n<p>..."}),
)
def get_model_card(ref: str, registry: RegistryDep, format: Form = "markdown") -> Response:
    """Return the model card of a model version as Markdown or HTML.

    It describes the model's purpose, quality, training and limits.

    A detection limit that was measured since is its last section.
    """
    text = card_text(registry, *registry.locate(parse_ref(ref)))
    if format == "html":
        return Response(render_markdown(text), media_type="text/html", headers=CARD_HEADERS)
    return Response(text, media_type="text/markdown", headers=CARD_HEADERS)


@router.get(
    "/{ref}/card/samples",
    "Show the samples of the model card",
    errors=(404, 409),
    **sends("A grid of samples, drawn when the model was made.", "image/png"),
)
def get_model_card_samples(ref: str, registry: RegistryDep) -> Response:
    """Return a PNG grid of sample images that were drawn from a model version and stored with it.

    A model of features alone has none (404).
    """
    return Response(_samples(registry, ref), media_type="image/png", headers=CARD_HEADERS)


def _samples(registry: Registry, ref: str) -> bytes:
    # A model with damaged calibrations still has its samples.
    model, version = registry.locate(parse_ref(ref))
    return read_file(registry.with_calibration(model, version, OWN).path, SAMPLES)


def render_markdown(text: str) -> str:
    """Convert Markdown with tables to safe HTML: embedded HTML is escaped, images are left out."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("image", lambda *_: "")
    html: str = parser.render(text)
    return html.replace("<p></p>\n", "")  # of which an image was all
