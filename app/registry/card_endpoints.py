"""Model cards: what a person should know before using a model."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from app.access.permissions import MayRead
from app.http.dependencies import RegistryDep
from app.http.errors import responses
from app.registry.markdown import fragment
from models.artifacts.files import CARD, SAMPLES, read_file
from models.registry.calibrations import OWN
from models.registry.registry import Registry, parse_ref

HEADERS = {
    # A model may be somebody else's: whatever its card says, a browser loads and runs nothing.
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}

# Plain functions: the framework runs them in threads, where the disk may block.
router = APIRouter(prefix="/v1/models/{ref}/card", tags=["models"], dependencies=[MayRead])

Form = Annotated[
    Literal["markdown", "html"],
    Query(description="`html`: a fragment to be put into a page, without images; markup in the card is shown as text."),
]


@router.get(
    "",
    operation_id="get_model_card",
    summary="Read the model card",
    response_class=Response,
    responses={
        **responses(401, 404, 422, 500),
        200: {
            "description": "The card.",
            "content": {
                "text/markdown": {"schema": {"type": "string"}, "example": "# Model card\n\nA normalizing flow ..."},
                "text/html": {"schema": {"type": "string"}, "example": "<h1>Model card</h1>\n<p>A normalizing ..."},
            },
        },
    },
)
def get_model_card(ref: str, registry: RegistryDep, format: Form = "markdown") -> Response:
    """Answers what the model is, how well it does, how it was trained and what it cannot do."""
    text = _file(registry, ref, CARD).decode(errors="replace")
    if format == "html":
        return Response(fragment(text), media_type="text/html", headers=HEADERS)
    return Response(text, media_type="text/markdown", headers=HEADERS)


@router.get(
    "/samples",
    operation_id="get_model_card_samples",
    summary="Look at the samples of the model card",
    response_class=Response,
    responses={
        **responses(401, 404, 422, 500),
        200: {
            "description": "A grid of samples, drawn when the model was made.",
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        },
    },
)
def get_model_card_samples(ref: str, registry: RegistryDep) -> Response:
    """Answers the picture that the card shows."""
    return Response(_file(registry, ref, SAMPLES), media_type="image/png", headers=HEADERS)


def _file(registry: Registry, ref: str, name: str) -> bytes:
    # Whatever state its calibrations are in, a model has its card.
    model, version = registry.locate(parse_ref(ref))
    return read_file(registry.with_calibration(model, version, OWN).path, name)
