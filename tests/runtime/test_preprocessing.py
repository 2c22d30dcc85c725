"""Preprocessing checks itself, alone and within the manifest of a model, which Pydantic reads."""

import io
import re
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel, ValidationError

from snf_runtime.errors import ImageError
from snf_runtime.images.codec import decode_image
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


@pytest.mark.parametrize("quality", [1, 50, 80, 100])
def test_a_lossy_webp_of_greys_is_grey(quality: int) -> None:
    """WebP has no grey mode, and libwebp rounds green differently from red and blue at some grey levels."""
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "WEBP", quality=quality)
    raw = np.asarray(Image.open(io.BytesIO(file.getvalue())))
    assert (raw[..., 0] != raw[..., 1]).any()
    decoded = decode_image(file.getvalue(), Preprocessing(1, 64, 256))
    np.testing.assert_array_equal(decoded.pixels[0], raw[..., 1])
    assert decoded.converted == "RGB -> L"


@pytest.mark.parametrize(("form", "tint"), [("WEBP", (2, 0, 2)), ("WEBP", (1, 0, 0)), ("PNG", (1, 0, 1))])
def test_other_colours_are_refused_by_a_grey_model(form: str, tint: tuple[int, int, int]) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 100, np.uint8) + np.array(tint, np.uint8)).save(file, form, lossless=True)
    with pytest.raises(ImageError, match="expected 1 channel"):
        decode_image(file.getvalue(), Preprocessing(1, 8, 8))
