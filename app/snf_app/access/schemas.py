from __future__ import annotations

from pydantic import Field

from snf_app.http.schemas import Answer
from snf_worker.keys import Role


class CallerView(Answer):
    """Name, id and roles of the API key that a request carries, as the answer of `/v1/me`."""

    name: str = Field(description="Name of the key; `anyone` where the service has no keys.", examples=["line-1"])
    key: str | None = Field(description="Id of the key; null without one.", examples=["5f3a90c1d2e4"])
    role: Role = Field(description="Role of the key; admin without one.")
    may: list[Role] = Field(description="Roles that `role` includes.", examples=[["read", "score"]])
