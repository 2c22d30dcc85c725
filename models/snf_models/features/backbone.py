"""Description of a backbone, a frozen network that turns images into features. Free of torch."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SMALLEST_SIDE, LARGEST_SIDE = 224, 1024
"""Pixels to which the shorter side is enlarged for the default backbone, and the longest side of an image."""

ENLARGED = 4
"""How many times images are enlarged for the default backbone at most: more blurs them beyond what it has seen."""
Triple = tuple[float, float, float]


class BackboneOutput(BaseModel):
    """An output tensor; its stride is in pixels of the input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    channels: int = Field(ge=1, le=4096)
    stride: int = Field(ge=1, le=64)


class Backbone(BaseModel):
    """Description of a backbone, the frozen network that turns images into features.

    An image has two kinds of features. Those at places are the values of all ``maps`` at each position of the coarsest
    one, after an average over 3x3 positions. The pooled features are means over the image, in two groups: of the
    features at places, and of ``pooled``.

    Attributes:
        name: The name by which presets and commands refer to the backbone.
        format: How its weights are stored: "efficientnet-lite0" is built in, "onnx" is a file with its own graph.
        sha256: SHA-256 of the file of the weights, in hexadecimal.
        mean: Means of red, green and blue in [0, 255], which are subtracted from the pixels.
        deviation: Deviations of red, green and blue, by which the differences are divided.
        multiple: The number that both sides of the input are multiples of.
        smallest_side: Pixels to which the shorter side of a smaller image is enlarged, within ``most_enlarged``.
        most_enlarged: How many times images are enlarged at most, before sides are rounded up to ``multiple``.
        input: The name of the input tensor of an ONNX file, float32 ``(N, 3, H, W)``, RGB.
        maps: The outputs that give a feature vector at each place.
        pooled: The output that is averaged over the image.
        license: The licence of the weights.
        origin: Where the weights come from, and what they were trained on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    format: Literal["efficientnet-lite0", "onnx"]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    mean: Triple
    deviation: Triple
    multiple: int = Field(32, ge=1, le=256)
    smallest_side: int = Field(SMALLEST_SIDE, ge=1, le=LARGEST_SIDE)
    most_enlarged: float = Field(ENLARGED, ge=1, le=LARGEST_SIDE)
    input: str = "image"
    maps: tuple[BackboneOutput, ...] = Field(min_length=1, max_length=8)
    pooled: BackboneOutput
    license: str = ""
    origin: str = ""

    @model_validator(mode="after")
    def _strides_divide(self) -> Backbone:
        coarsest = self.stride
        for output in (*self.maps, self.pooled):
            if self.multiple % output.stride:
                raise ValueError(f"expected strides that divide {self.multiple}, got {output.stride} of {output.name}")
        for output in self.maps:
            if coarsest % output.stride:
                raise ValueError(f"expected strides that divide {coarsest}, got {output.stride} of {output.name}")
        if min(self.deviation) <= 0:
            raise ValueError(f"expected deviations above 0, got {self.deviation}")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of all that determines the features: weights, normalisation, input and outputs."""
        content = self.model_dump(
            mode="json", include={"format", "sha256", "mean", "deviation", "input", "maps", "pooled"}
        )
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def stride(self) -> int:
        """Largest stride of the maps, in pixels of the input."""
        return max(output.stride for output in self.maps)

    @property
    def pooled_groups(self) -> tuple[int, int]:
        """Channels of all ``maps``, and of ``pooled``."""
        return sum(output.channels for output in self.maps), self.pooled.channels

    def input_size(self, height: int, width: int, smallest: int | None = None) -> tuple[int, int]:
        """Return the network's input for images of a size: enlarged, then rounded up to ``multiple``.

        >>> from snf_models.features.lite0 import LITE0
        >>> LITE0.input_size(28, 28), LITE0.input_size(256, 256), LITE0.input_size(300, 200)
        ((128, 128), (256, 256), (352, 224))
        """
        shorter = min(height, width)
        factor = max(1.0, (smallest or min(self.smallest_side, self.most_enlarged * shorter)) / shorter)
        return self._rounded(height * factor), self._rounded(width * factor)

    def feature_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Return channels, rows and columns of the features of an input."""
        return sum(output.channels for output in self.maps), size[0] // self.stride, size[1] // self.stride

    def _rounded(self, side: float) -> int:
        return math.ceil(round(side, 6) / self.multiple) * self.multiple
