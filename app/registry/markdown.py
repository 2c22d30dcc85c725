"""Markdown of others as an HTML fragment that cannot do anything: no markup of its own, nothing that is loaded."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.token import Token


def fragment(text: str) -> str:
    """Markdown with tables as HTML; markup in it is shown as text, and images are left out."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for token in tokens:
        if token.children:
            token.children = [one for one in token.children if one.type != "image"]
    rendered: str = parser.renderer.render(_without_empty_paragraphs(tokens), parser.options, {})
    return rendered


def _without_empty_paragraphs(tokens: list[Token]) -> list[Token]:
    kept: list[Token] = []
    for token in tokens:
        empty = len(kept) > 1 and kept[-2].type == "paragraph_open" and not kept[-1].children
        if token.type == "paragraph_close" and empty:
            del kept[-2:]
        else:
            kept.append(token)
    return kept
