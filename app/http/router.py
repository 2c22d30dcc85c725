"""Routers of the service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.params import Depends

from app.http.query import KnownQuery


class Router(APIRouter):
    """A router whose routes refuse query parameters that they do not declare.

    Its routes are complete, and all applications of a process share them: an application takes them as they are, and
    its ``dependency_overrides`` do not reach them. Do not include the router anywhere, which builds each route anew.
    """

    def __init__(self, *, dependencies: Sequence[Depends] = (), **options: Any) -> None:
        super().__init__(dependencies=[KnownQuery, *dependencies], **options)
