"""Options for the images that a model is trained on. Free of torch."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from snf_runtime.images.preprocessing import MAX_LEVELS, Colour, Fit

Side = Annotated[int, Field(ge=4, le=1024)]
BothSides = tuple[Side, Side]


def _both_sides(value: object) -> object:
    """Return [height, width] for a side given as a number. Text from a command line is parsed as JSON."""
    with suppress(ValueError, RecursionError):
        value = json.loads(value) if isinstance(value, str) else value
    return (value, value) if isinstance(value, int) else value


OneOrBoth = BeforeValidator(_both_sides, json_schema_input_type=BothSides | Side | None)


class ImageOptions(BaseModel):
    """Options for how training images are brought to one size and one number of colour channels.

    If the size, the fit or the colour is unset, it is chosen from the images. The side of tiles is 256 if it is unset.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    image_size: Annotated[BothSides | None, OneOrBoth] = Field(
        None,
        description="Side, or [height, width], that images are brought to; unset: their own size where all have the "
        "same, else a size that suits them. With fit tiles the side of a tile; unset: 256.",
    )
    automatic_side: Side = Field(
        64, description="Largest side that is chosen where the images differ in size and image_size is unset."
    )
    fit: Fit | None = Field(
        None,
        description="How images of another size are brought to the model's, in training and in scoring: exact (they "
        "are refused), crop, stretch, pad, or tiles (none are resized; they are scored tile by tile, by presets of "
        "features alone); unset: exact where all images have the model's size, else crop.",
    )
    colour: Colour | None = Field(
        None,
        description="Channels of the model: exact (those of the images, others are refused), grey or rgb; unset: exact "
        "where all images have the same channels, else rgb.",
    )
    levels: int | None = Field(
        None,
        ge=256,
        le=MAX_LEVELS,
        description="Grey levels of 16-bit grey files: 4096 for a camera of 12 bits; unset: 65536.",
    )
