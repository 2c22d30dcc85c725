"""Descriptions of architectures: what the manifest stores and the builder reads. Free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.presets import Preset, depth
from models.problems import DatasetUnfit

PixelTransform = Literal["affine", "logit", "marginal"]


class GlowArchitecture(BaseModel):
    """A multi-scale Glow, complete: whoever reads this can build the flow and fill it with weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["glow"] = "glow"
    channels: int = Field(ge=1, le=4)
    height: int = Field(ge=8, le=1024)
    width: int = Field(ge=8, le=1024)
    steps: int = Field(ge=1, le=64, description="Steps (actnorm, 1x1 convolution, coupling) a level.")
    hidden: int = Field(ge=1, le=1024, description="Width of the coupling nets.")
    linear: Literal["self-normalizing", "exact"] = "self-normalizing"
    pixel_transform: PixelTransform = "logit"

    @property
    def levels(self) -> int:
        """The number of scales."""
        return depth(self.height, self.width)


def glow_architecture(preset: Preset, image_shape: tuple[int, int, int], pixels: PixelTransform) -> GlowArchitecture:
    """Return the architecture of ``preset`` for images ``(C, H, W)``. Raises ``DatasetUnfit`` where no level fits."""
    channels, height, width = image_shape
    if depth(height, width) == 0 or max(height, width) > 1024 or not 1 <= channels <= 4:
        raise DatasetUnfit(
            f"{preset.name} needs 1 to 4 channels and even sides of 8 to 1024 pixels, got {channels}x{height}x{width}"
        )
    return GlowArchitecture(
        channels=channels,
        height=height,
        width=width,
        steps=preset.steps,
        hidden=preset.width,
        linear=preset.linear,
        pixel_transform=pixels,
    )
