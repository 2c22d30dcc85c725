"""Names, references and the base class of answers, shared by the schemas of all domains."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
"""A model's or dataset's name."""
REF = r"^[a-z0-9][a-z0-9._-]{0,63}(:[1-9][0-9]{0,8}|@[a-z0-9][a-z0-9._-]{0,63})?$"
"""A model's name, with a version or an alias."""


class Answer(BaseModel):
    """Base of all answers: fields that were not set are left out of the JSON."""

    model_config = ConfigDict(frozen=True, from_attributes=True)
