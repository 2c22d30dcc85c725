"""What the service accepts and answers about the aliases of a model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from app.http.schemas import Answer


class AliasTarget(BaseModel):
    """The version that an alias shall point at."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"version": 3}]})

    version: int = Field(ge=1, lt=10**9, description="A version of the model.")


class Aliases(Answer):
    """The aliases of a model after one was moved."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={"examples": [{"name": "line-1", "aliases": {"live": 3, "champion": 2}, "previous": 2}]},
    )

    name: str
    aliases: dict[str, int] = Field(description="Alias to version; `live` is what the plain name means.")
    previous: int | None = Field(description="Where the alias pointed before; null for a new one.")
