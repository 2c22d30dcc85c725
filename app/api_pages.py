"""The pages that describe the calls, at `/docs`; all that they load comes from this service."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

PATH = "/docs/files"

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def api_pages(request: Request) -> HTMLResponse:
    """Every call with its schema and examples, to be tried."""
    return get_swagger_ui_html(
        openapi_url=request.app.openapi_url,
        title=request.app.title,
        swagger_js_url=f"{PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{PATH}/swagger-ui.css",
        swagger_favicon_url="/console/icon.svg",
    )


def api_page_files() -> StaticFiles:
    """Swagger UI as its authors publish it, from the package that carries it."""
    return StaticFiles(directory=str(files("fastapi_offline") / "static"))
