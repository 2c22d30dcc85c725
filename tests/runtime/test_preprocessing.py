"""Preprocessing checks itself, alone and within the manifest of a model, which Pydantic reads."""

import re
from typing import Any, cast

import pytest
from pydantic import BaseModel, ValidationError

from snf_runtime.images.preprocessing import Fit, Preprocessing

SOUND: dict[str, Any] = {"channels": 1, "height": 28, "width": 28}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"channels": 5}, "expected channels to be a whole number from 1 to 4, got 5"),
    ({"height": 0}, "expected height to be a whole number from 1 to 4096, got 0"),
    ({"levels": 128}, "expected levels to be a whole number from 256 to 65536, got 128"),
    ({"colour": "rgb"}, "colour 'rgb' does not give 1 channels"),
    ({"fit": "tiles", "width": 32}, "fit tiles takes square tiles, got 28x32"),
]


class Holder(BaseModel):
    """A model of Pydantic with a preprocessing, as a manifest is."""

    preprocessing: Preprocessing


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Preprocessing(**{**SOUND, **changes})
    with pytest.raises(ValidationError, match=re.escape(message)):
        Holder.model_validate({"preprocessing": {**SOUND, **changes}})


def test_what_pydantic_refuses_before() -> None:
    for changes in ({"fit": "zoom"}, {"more": 1}, {"height": "tall"}):
        with pytest.raises(ValidationError):
            Holder.model_validate({"preprocessing": {**SOUND, **changes}})
    with pytest.raises(ValueError, match="expected fit to be one of exact, crop, stretch, pad, tiles, got 'zoom'"):
        Preprocessing(1, 28, 28, fit=cast(Fit, "zoom"))


def test_json_and_digest_are_those_of_earlier_versions() -> None:
    """The digest is an SHA-256 of the JSON that Pydantic wrote, without defaults."""
    holder = Holder.model_validate_json('{"preprocessing":{"channels":1,"height":28,"width":28,"fit":"exact"}}')
    written = '{"preprocessing":{"channels":1,"height":28,"width":28,"fit":"exact","colour":"exact","levels":65536}}'
    assert holder.model_dump_json() == written
    assert holder.preprocessing.id == "sha256:c050e1521a00f8c7cedbb4645e81cac3c9ece06fccbd403b4aac0c3697d69649"
    assert Preprocessing(3, 64, 64, "crop", "rgb", 4096).id != Preprocessing(3, 64, 64, "crop", "rgb").id
