"""Pages for browsers and the OpenAPI document: the console, ``/guide``, ``/docs``, ``/openapi.json``."""

from __future__ import annotations

import asyncio
import hashlib
import re
from base64 import b64encode
from functools import cache
from importlib.resources import files as package_files
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

from fastapi import Request
from fastapi.openapi.docs import get_swagger_ui_html
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import escape
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from snf_app.http.router import Router

FOLDER = Path(__file__).parent / "console"
CONSOLE_PATH = "/console"
DOCS_PATH = "/docs/files"
GUIDE_PATH = "/guide"
OPENAPI_PATH = "/openapi.json"

POLICY = "Content-Security-Policy"
HEADERS = {
    # Nothing from other hosts, no inline script, no frame around it: whatever a file name or an answer contains.
    POLICY: "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Checked at every visit, and sent only where changed: modules of two releases never mix.
    "Cache-Control": "no-cache",
}

router = Router(role=None)


class Document:
    """Content that never changes while the service runs: its bytes and their ETag, made once."""

    def __init__(self, content: bytes, media_type: str, headers: dict[str, str] = HEADERS) -> None:
        self._content = content
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self._headers = {**headers, "ETag": self._tag, "Content-Type": media_type}

    def answer(self, request: Request) -> Response:
        """Return the response to a request: the content, or 304 if the client's copy is current."""
        current = self._tag in request.headers.get("if-none-match", "")
        return Response(None if current else self._content, 304 if current else 200, self._headers)


class PageFiles(StaticFiles):
    """Application that serves the static files of web pages, such as scripts, with security headers."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Return a static file with security headers, or 304 if the client's cached copy is current."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the response with the file at ``path``; a ``.js`` file always has type ``text/javascript``."""
        response = await super().get_response(path, scope)
        if path.endswith(".js"):
            response.headers["Content-Type"] = "text/javascript; charset=utf-8"
        return response


class GuideFiles(PageFiles):
    """Application that serves the documentation: its Markdown files as HTML pages, and their images."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the page of a Markdown file, or a file of another kind."""
        if not path.endswith(".md"):
            return await super().get_response(path, scope)
        file, found = self.lookup_path(path)
        if found is None:
            raise HTTPException(404)
        return _guide_page(Path(file)).answer(Request(scope))


@cache
def _guide_page(file: Path) -> Document:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(file.read_text(encoding="utf-8"))
    for opening, inline in pairwise(tokens):
        children = inline.children or []
        if opening.type == "heading_open":
            opening.attrSet("id", re.sub(r"[^\w -]", "", _text(inline).lower()).replace(" ", "-"))
        for place, child in enumerate(children):
            # Files beside the documentation, such as results of benchmarks, are not served.
            if child.type == "link_open" and str(child.attrGet("href")).startswith("../"):
                end = next(other for other in children[place:] if other.type == "link_close")
                child.tag, child.attrs, end.tag = "span", {}, "span"
            elif child.type == "image" and str(child.attrGet("src")).startswith("../"):
                child.type = "text"
    body = parser.renderer.render(tokens, parser.options, {})
    page = Template((FOLDER / "guide.html").read_text(encoding="utf-8"))
    text = page.substitute(title=escape(_text(tokens[1])), body=body)
    return Document(text.encode(), "text/html; charset=utf-8")


def _text(inline: Token) -> str:
    return "".join(child.content for child in inline.children or [])


console_files = PageFiles(directory=FOLDER)
guide_files = GuideFiles(directory=FOLDER.parent / "docs", follow_symlink=True)


@router.get("/", include_in_schema=False)
async def console(request: Request) -> Response:
    """Return the HTML start page of the web console."""
    return await console_files.get_response("index.html", request.scope)


@router.get(OPENAPI_PATH, include_in_schema=False)
async def openapi(request: Request) -> Response:
    """Return the OpenAPI document of the service."""
    # The first one takes a second to make.
    document: Document = await asyncio.to_thread(request.app.openapi_document)
    return document.answer(request)


@router.get("/docs", include_in_schema=False)
async def api_docs(request: Request) -> Response:
    """Return the interactive API documentation (Swagger UI) as an HTML page."""
    return _docs_page(request.app.title).answer(request)


@cache
def _docs_page(title: str) -> Document:
    page = get_swagger_ui_html(
        openapi_url=OPENAPI_PATH,
        title=title,
        swagger_js_url=f"{DOCS_PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{DOCS_PATH}/swagger-ui.css",
        swagger_favicon_url=f"{CONSOLE_PATH}/icon.svg",
    )
    # The page has one inline script, which starts Swagger UI.
    allowed = " ".join(
        f"'sha256-{_digest(script)}'" for script in re.findall(rb"<script>(.*?)</script>", page.body, re.S)
    )
    policy = HEADERS[POLICY].replace("script-src 'self'", f"script-src 'self' {allowed}")
    return Document(bytes(page.body), "text/html; charset=utf-8", HEADERS | {POLICY: policy})


def _digest(script: bytes) -> str:
    return b64encode(hashlib.sha256(script).digest()).decode()


def api_docs_files() -> StaticFiles:
    """Return an application that serves the scripts and styles of Swagger UI from an installed package.

    Nothing is loaded from other hosts.
    """
    return PageFiles(directory=str(package_files("fastapi_offline") / "static"))
