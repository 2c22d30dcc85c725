"""Properties of the files of training images, and how scored files differ from them. Free of torch."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from snf_runtime.images.preprocessing import DecodedImage

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
