"""The preprocessing chosen from training images, and where images come from. Free of torch."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from snf_client.schemas.datasets import ImageFacts
from snf_client.schemas.training import ImageOptions
from snf_models.errors import DatasetUnfit
from snf_runtime.images.preprocessing import CHANNELS, MAX_LEVELS, Colour, DecodedImage, Preprocessing

MAX_MODEL_SIDE = 1024
TILE_SIDE = 256  # side of the tiles of a model with fit tiles, where image_size is unset


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


ARRAY = "array"  # format of pixels that come from an array, not from an image file
LOSSLESS = {"PNG", "BMP", "TIFF", "GIF", ARRAY}
SIZE_FACTOR = 1.5
"""Factor by which the shorter side may be outside the range of the training images before there is a warning."""


class Provenance(BaseModel):
    """Properties of a model's training image files, to compare others with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    formats: dict[str, int] = {}
    smallest: tuple[int, int] = Field((0, 0), description="Width, height of the image with the shortest shorter side.")
    largest: tuple[int, int] = Field((0, 0), description="Width, height of the image with the longest shorter side.")
    converted: dict[str, int] = Field({}, description="Images by the change of mode they went through.")
    resized: int = 0

    def with_image(self, image: DecodedImage) -> Self:
        """Return the properties with one more image."""
        file, size = image.format or ARRAY, image.source_size or image.pixels.shape[:0:-1]
        size = (int(size[0]), int(size[1]))
        first = not self.formats
        converted = self.converted
        if image.converted is not None:
            converted = {**converted, image.converted: converted.get(image.converted, 0) + 1}
        return self.model_copy(
            update={
                "formats": {**self.formats, file: self.formats.get(file, 0) + 1},
                "smallest": size if first or min(size) < min(self.smallest) else self.smallest,
                "largest": size if first or min(size) > min(self.largest) else self.largest,
                "converted": converted,
                "resized": self.resized + image.resized,
            }
        )


def remark(trained: Provenance | None, image: DecodedImage) -> str | None:
    """Return what was done to a scored file and how it is unlike the training images, or None."""
    warning = provenance_warning(trained, image)
    converted = f"converted {image.converted}" if image.converted else None
    return "; ".join(filter(None, (*image.notes, converted, warning))) or None


def provenance_warning(trained: Provenance | None, image: DecodedImage) -> str | None:
    """Return a warning if a scored file is of another format than the training images or far from their sizes.

    >>> import numpy as np
    >>> image = DecodedImage(np.zeros((1, 64, 64), np.uint8), None, True, "JPEG", (4000, 3000))
    >>> print(provenance_warning(Provenance(formats={"PNG": 60}, smallest=(64, 64), largest=(64, 64)), image))
    scored image is JPEG, training images were PNG; scored image is 4000x3000, training images were 64x64
    """
    if trained is None or not trained.formats or image.format is None or image.source_size is None:
        return None
    differences = []
    if image.format not in trained.formats and not (image.format in LOSSLESS and LOSSLESS & trained.formats.keys()):
        names = ["uncompressed" if name == ARRAY else name for name in sorted(trained.formats)]
        differences.append(f"scored image is {image.format}, training images were {' and '.join(names)}")
    low, high = min(trained.smallest), min(trained.largest)
    if not low / SIZE_FACTOR <= min(image.source_size) <= high * SIZE_FACTOR:
        sizes = ["{}x{}".format(*size) for size in (trained.smallest, trained.largest)]
        differences.append(
            f"scored image is {image.source_size[0]}x{image.source_size[1]}, "
            f"training images were {' to '.join(dict.fromkeys(sizes))}"
        )
    return "; ".join(differences) or None
