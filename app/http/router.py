"""Routers of the service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.params import Depends

from app.http.query import KnownQuery


class Router(APIRouter):
    """A router whose routes refuse query parameters that they do not declare.

    Its routes are complete: an application takes them as they are. To include the router would build each anew.
    """

    def __init__(self, *, dependencies: Sequence[Depends] = (), **options: Any) -> None:
        super().__init__(dependencies=[KnownQuery, *dependencies], **options)
