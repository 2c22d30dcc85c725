from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from snf_models.errors import DatasetUnfit
from snf_models.images.options import ImageOptions
from snf_runtime.images.preprocessing import CHANNELS, MAX_LEVELS, Colour, Preprocessing

MAX_MODEL_SIDE = 1024
TILE_SIDE = 256
"""Side of the tiles of a model with fit tiles, where image_size is unset."""


class ImageFacts(BaseModel):
    """Summary of the image sizes and colours in a dataset, used to choose a model's input size and colour mode."""

    model_config = ConfigDict(frozen=True)

    smallest: tuple[int, int] = Field(description="Smallest width and smallest height, pixels.")
    largest: tuple[int, int] = Field(description="Largest width and largest height, pixels.")
    median_shorter_side: int
    coloured: bool = Field(description="Whether any image has colour.")
    channels: int | None = Field(description="Channels that every image has as it is; None where they differ.")


def choose_preprocessing(config: ImageOptions, facts: ImageFacts, name: str) -> Preprocessing:
    """Choose what the configuration leaves open to suit the images; the default size is theirs where all have one.

    >>> facts = ImageFacts(smallest=(40, 50), largest=(640, 480), median_shorter_side=51, coloured=True, channels=3)
    >>> choose_preprocessing(ImageOptions(), facts, "photos")
    Preprocessing(channels=3, height=48, width=48, fit='crop', colour='exact', levels=65536)
    """
    width, height = _size(config, facts)
    as_they_are = facts.smallest == facts.largest == (width, height)
    fit = config.fit or ("exact" if as_they_are else "crop")
    if fit == "tiles" and width != height:
        raise DatasetUnfit(f"fit tiles takes square tiles, got image_size {height}x{width}; set image_size to one side")
    if fit == "exact" and not as_they_are:
        sizes = " to ".join(dict.fromkeys("{}x{}".format(*size) for size in (facts.smallest, facts.largest)))
        raise DatasetUnfit(
            f"the images of {name} are {sizes} (width x height), fit exact takes {width}x{height} alone; "
            "set fit to crop, stretch or pad"
        )
    colour: Colour = config.colour or ("rgb" if facts.channels is None else "exact")
    channels = facts.channels if colour == "exact" else CHANNELS[colour]
    if channels is None:
        raise DatasetUnfit(f"some images of {name} are grey and some have colour; set colour to rgb or grey")
    levels = config.levels or MAX_LEVELS
    return Preprocessing(channels=channels, height=height, width=width, fit=fit, colour=colour, levels=levels)


def _size(config: ImageOptions, facts: ImageFacts) -> tuple[int, int]:
    if config.image_size is not None:
        return config.image_size[1], config.image_size[0]
    if config.fit == "tiles":
        return TILE_SIDE, TILE_SIDE
    if facts.smallest == facts.largest and max(facts.largest) <= MAX_MODEL_SIDE:
        return facts.largest
    side = min(config.automatic_side, max(4, facts.median_shorter_side // 4 * 4))
    return side, side
