from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query, Response
from markdown_it import MarkdownIt
from markdown_it.token import Token

from snf_app.access.permissions import MayRead
from snf_app.http.errors import responses
from snf_app.http.router import Router
from snf_app.state import RegistryDep
from snf_models.artifacts.files import SAMPLES, read_file
from snf_models.limits.card import card_text
from snf_models.naming import parse_ref
from snf_models.registry.calibrations import OWN
from snf_models.registry.registry import Registry

HEADERS = {
    # Cards of models from elsewhere are not trusted: a browser must load and run nothing.
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}

# Plain functions: the framework runs them in threads, where the disk may block.
router = Router(prefix="/v1/models/{ref}/card", tags=["models"], dependencies=[MayRead])

Form = Annotated[
    Literal["markdown", "html"],
    Query(description="`html`: a fragment for a page, without images; HTML in the card is shown as text."),
]


@router.get(
    "",
    operation_id="get_model_card",
    summary="Read the model card",
    response_class=Response,
    responses={
        **responses(401, 404, 409, 422, 500),
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
    """Return the model card of a model version as Markdown or HTML.

    It describes the model's purpose, quality, training and limits.

    A detection limit that was measured since is its last section.
    """
    text = card_text(registry, *registry.locate(parse_ref(ref)))
    if format == "html":
        return Response(render_markdown(text), media_type="text/html", headers=HEADERS)
    return Response(text, media_type="text/markdown", headers=HEADERS)


@router.get(
    "/samples",
    operation_id="get_model_card_samples",
    summary="Show the samples of the model card",
    response_class=Response,
    responses={
        **responses(401, 404, 409, 422, 500),
        200: {
            "description": "A grid of samples, drawn when the model was made.",
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        },
    },
)
def get_model_card_samples(ref: str, registry: RegistryDep) -> Response:
    """Return a PNG grid of sample images that were drawn from a model version and stored with it.

    A model of features alone has none (404).
    """
    return Response(_samples(registry, ref), media_type="image/png", headers=HEADERS)


def _samples(registry: Registry, ref: str) -> bytes:
    # A model with damaged calibrations still has its samples.
    model, version = registry.locate(parse_ref(ref))
    return read_file(registry.with_calibration(model, version, OWN).path, SAMPLES)


def render_markdown(text: str) -> str:
    """Convert Markdown with tables to safe HTML: embedded HTML is escaped, images are left out."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for token in tokens:
        if token.children:
            token.children = [child for child in token.children if child.type != "image"]
    rendered: str = parser.renderer.render(_without_empty_paragraphs(tokens), parser.options, {})
    return rendered


def _without_empty_paragraphs(tokens: list[Token]) -> list[Token]:
    # Paragraphs of which only an image was left out.
    kept: list[Token] = []
    for token in tokens:
        empty = len(kept) > 1 and kept[-2].type == "paragraph_open" and not kept[-1].children
        if token.type == "paragraph_close" and empty:
            del kept[-2:]
        else:
            kept.append(token)
    return kept
