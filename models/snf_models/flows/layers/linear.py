"""Descriptions of linear layers: 1x1 convolutions, low-rank, fully connected and local affine maps.

The module does not import PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from snf_models.flows.layers.spec import ImageShape, LayerSpec, numbers, register

if TYPE_CHECKING:
    from snf_models.bijections.base import Bijection

Rank = Annotated[int, Field(ge=1, le=1024)]


class _OneByOne(LayerSpec):
    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the number of channels."""
        return (shape[0],)

    def parameters(self, shape: ImageShape) -> int:
        """Return C² + C: a matrix and an offset."""
        return shape[0] * (shape[0] + 1)


@register
class ExactOneByOneSpec(_OneByOne):
    """1x1 convolution with an exact log-determinant and gradient."""

    type: Literal["exact-1x1"] = "exact-1x1"
    bijection = "snf_models.bijections.conv1x1:ExactConv1x1"


@register
class LUOneByOneSpec(_OneByOne):
    """1x1 convolution whose matrix is stored as triangular factors (Kingma & Dhariwal 2018)."""

    type: Literal["lu-1x1"] = "lu-1x1"
    bijection = "snf_models.bijections.conv1x1:LUConv1x1"


@register
class SelfNormalizingOneByOneSpec(_OneByOne):
    """1x1 convolution that learns its inverse (Keller et al. 2021)."""

    type: Literal["self-normalizing-1x1"] = "self-normalizing-1x1"
    bijection = "snf_models.bijections.conv1x1:SelfNormalizingConv1x1"

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of this layer for inputs of a given image shape.

        It is 2 C² + C, for the matrix, its learned inverse and an offset.
        """
        return shape[0] * (2 * shape[0] + 1)


@register
class WoodburySpec(LayerSpec):
    """Layer that mixes channels and pixels by low-rank matrices (Lu & Huang 2020).

    The mixing is added to the identity.
    """

    type: Literal["woodbury"] = "woodbury"
    bijection = "snf_models.bijections.woodbury:WoodburyConv"
    channel_rank: Rank = 2
    spatial_rank: Rank = 4

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the arguments that construct the layer: image shape, channel rank and spatial rank.

        The ranks are those of the matrices that mix channels and pixels.
        """
        return shape, self.channel_rank, self.spatial_rank

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        """Return the ranks of a built Woodbury layer as a dict with ``channel_rank`` and ``spatial_rank``.

        They are the ranks of the matrices that mix channels and pixels.
        """
        ranks = (layer.get_parameter(name).shape[1] for name in ("channel_left", "spatial_left"))
        return dict(zip(("channel_rank", "spatial_rank"), ranks, strict=True))

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of the layer, all of them in four low-rank matrices."""
        return 2 * (shape[0] * self.channel_rank + shape[1] * shape[2] * self.spatial_rank)

    def summary(self) -> str:
        """Return a short text with the layer type, the channel rank and the spatial rank."""
        return f"{self.type} of ranks {self.channel_rank} and {self.spatial_rank}"


class _Dense(LayerSpec):
    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the number of values of an image."""
        return (numbers(shape),)

    def parameters(self, shape: ImageShape) -> int:
        """Return D² + D: a matrix and an offset."""
        return numbers(shape) * (numbers(shape) + 1)


@register
class ExactDenseSpec(_Dense):
    """Fully connected layer over the whole image, with an exact log-determinant and gradient."""

    type: Literal["exact-dense"] = "exact-dense"
    bijection = "snf_models.bijections.dense:ExactDense"


@register
class SelfNormalizingDenseSpec(_Dense):
    """Fully connected layer over the whole image that learns a second matrix as its inverse (Keller et al. 2021)."""

    type: Literal["self-normalizing-dense"] = "self-normalizing-dense"
    bijection = "snf_models.bijections.dense:SelfNormalizingDense"

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of this layer for inputs of a given image shape.

        It is 2 D² + D, for the matrix, its learned inverse and an offset.
        """
        return numbers(shape) * (2 * numbers(shape) + 1)


@register
class RelativeDenseSpec(_Dense):
    """Fully connected layer that is trained by the relative gradient (Gresele et al. 2020)."""

    type: Literal["relative-dense"] = "relative-dense"
    bijection = "snf_models.bijections.dense:RelativeGradientDense"


class _LocalAffine(LayerSpec):
    grid: int = Field(4, ge=1, le=16, description="Cells along each side, each with a matrix of its own.")

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the shape of the images and the grid."""
        return shape, self.grid

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        """Return the grid."""
        return {"grid": layer.grid}

    def parameters(self, shape: ImageShape) -> int:
        """Return those of a matrix for each cell and a mean for each value."""
        return self._of_matrices(shape) + numbers(shape)

    def summary(self) -> str:
        """Return the type and the grid."""
        return f"{self.type} on a {self.grid}x{self.grid} grid"

    def _of_matrices(self, shape: ImageShape) -> int:
        return min(self.grid, shape[1]) * min(self.grid, shape[2]) * shape[0] ** 2


@register
class ExactLocalAffineSpec(_LocalAffine):
    """Affine layer with a separate channel-mixing matrix for each rectangular region of the image.

    The regions are the cells of a grid. The layer also has a mean for each value of an image. The log-determinant of
    the layer is exact.
    """

    type: Literal["exact-local-affine"] = "exact-local-affine"
    bijection = "snf_models.bijections.local_affine:ExactLocalAffine"


@register
class SelfNormalizingLocalAffineSpec(_LocalAffine):
    """Affine layer that mixes the channels differently in each image region and learns its own inverse.

    There is a matrix of the channels for each cell of a grid, and a mean for each place.
    """

    type: Literal["self-normalizing-local-affine"] = "self-normalizing-local-affine"
    bijection = "snf_models.bijections.local_affine:SelfNormalizingLocalAffine"

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of this layer for inputs of a given image shape.

        These are a matrix and its inverse for each cell, and a mean for each value.
        """
        return super().parameters(shape) + self._of_matrices(shape)
