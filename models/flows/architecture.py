"""Architectures of flows as data, stored in the manifest of a model and read by the builder; without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PixelTransform = Literal["affine", "logit", "marginal"]
Linear = Annotated[str, Field(max_length=64)]
"""Name of a linear layer in the tables of ``models.flows.build``."""


class _ImageArchitecture(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(ge=1, le=4)
    height: int = Field(ge=1, le=1024)
    width: int = Field(ge=1, le=1024)
    pixel_transform: PixelTransform = "logit"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The channels, height and width of the images that the flow models."""
        return self.channels, self.height, self.width


class GlowArchitecture(_ImageArchitecture):
    """Settings of a Glow, a multi-scale flow of 1x1 convolutions and couplings (Kingma & Dhariwal 2018).

    Each level is a squeeze (2x2 pixels become channels), repeated steps, and a split that turns half of the channels
    into latents. A step is activation normalisation, a 1x1 convolution and an affine coupling.
    """

    family: Literal["glow"] = "glow"
    levels: int = Field(ge=1, le=8)
    steps: int = Field(ge=1, le=64, description="Steps a level.")
    hidden: int = Field(ge=1, le=1024, description="Width of the coupling nets.")
    linear: Linear = "self-normalizing"

    def summary(self) -> str:
        """Return a line such as "Glow, 2 levels of 8 steps, width 64, self-normalizing 1x1 convolutions"."""
        return f"Glow, {self.levels} levels of {self.steps} steps, width {self.hidden}, {self.linear} 1x1 convolutions"


class ConvolutionalArchitecture(_ImageArchitecture):
    """Settings of a flow of k x k convolutions with spline activations between them (Keller et al. 2021, sec. 5).

    The convolutions are in blocks. There is a squeeze (2x2 pixels become channels) between blocks and no split, and no
    activation after the last convolution. The paper has nine layers in three blocks.
    """

    family: Literal["convolutional"] = "convolutional"
    blocks: int = Field(3, ge=1, le=6)
    layers: int = Field(3, ge=1, le=16, description="Convolutions a block.")
    kernel: int = Field(3, ge=1, le=15)
    linear: Linear = "self-normalizing"

    def summary(self) -> str:
        """Return a line such as "9 self-normalizing convolutions in 3 blocks, spline activations"."""
        return f"{self.blocks * self.layers} {self.linear} convolutions in {self.blocks} blocks, spline activations"


class FullyConnectedArchitecture(_ImageArchitecture):
    """Settings of a flow of fully connected layers and smooth leaky ReLUs (Keller et al. 2021, sec. 5)."""

    family: Literal["fully-connected"] = "fully-connected"
    layers: int = Field(2, ge=1, le=16)
    linear: Linear = "self-normalizing"

    def summary(self) -> str:
        """Return a line such as "2 self-normalizing dense layers, smooth leaky ReLU"."""
        return f"{self.layers} {self.linear} dense layers, smooth leaky ReLU"


Architecture = Annotated[
    GlowArchitecture | ConvolutionalArchitecture | FullyConnectedArchitecture, Field(discriminator="family")
]


def depth(height: int, width: int) -> int:
    """Return how often both sides of an image can be halved without remainder, down to no less than 4 pixels.

    It is the number of levels of a multi-scale flow.

    >>> depth(28, 28), depth(32, 32), depth(64, 64), depth(27, 28)
    (2, 3, 4, 0)
    """
    levels = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) // 2 >= 4:
        height, width, levels = height // 2, width // 2, levels + 1
    return levels
