"""The web console at `/`: plain files that a browser runs as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parent / "console"
PATH = "/console"

HEADERS = {
    # Nothing from other hosts, no inline script, no frame around it: whatever a file name or an answer holds.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked for again at every visit, and sent only where changed: the modules of two releases never mix.
    "Cache-Control": "no-cache",
}


class ConsoleFiles(StaticFiles):
    """The console's scripts, styles and pictures."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """One file, or that it has not changed."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response

    async def get_response(self, path: str, scope: Scope) -> Response:
        """One file; its type does not depend on what the machine has in its tables."""
        response = await super().get_response(path, scope)
        if path.endswith(".js"):
            response.headers["Content-Type"] = "text/javascript; charset=utf-8"
        return response


files = ConsoleFiles()
router = APIRouter()


@router.get("/", include_in_schema=False)
async def console(request: Request) -> Response:
    """The page; what it shows it asks of the same calls as everybody."""
    return await files.get_response("index.html", request.scope)
