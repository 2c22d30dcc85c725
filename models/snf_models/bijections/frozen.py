"""Frozen steps: immutable float64 forms of trained bijections, for scoring and sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

Inverse = Literal["exact", "learned"]
AffineMap = tuple[Tensor, Tensor]
"""Matrix ``(K, K)`` and offset ``(K,)`` of an affine map, float64."""


class FrozenStep(Protocol):
    """Protocol of a flow layer in its immutable float64 form for scoring and sampling.

    The layer is made from a trained layer.

    A log-det that is the same for all images is computed once and stored with the model, not here.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the layer's outputs and each pixel's contribution to the Jacobian's log-determinant.

        The parts of log|det dz/dx| are in nats, ``(N, H, W)``. They are None if the log-determinant is equal for all
        images.
        """
        ...

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Return the inputs that the layer maps to ``z``, computed by the exact or the learned inverse.

        ``inverse`` selects the "exact" inverse, or the approximate "learned" inverse if the layer has learned an
        inverse.
        """
        ...


@dataclass(frozen=True)
class FrozenAffine:
    """Immutable float64 layer that applies an affine map ``A x + b``.

    It maps the channels of each pixel, or whole flattened images.

    Attributes:
        forward_map: A and b.
        learned_map: Matrix and offset of the learned inverse, or None.
        flat: Whether the map is of whole images as vectors, ``(N, D)``.
    """

    forward_map: AffineMap
    learned_map: AffineMap | None = None
    flat: bool = False

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Return the layer's outputs, and None in place of the log-determinant, which is constant.

        The outputs are A x + b in the shape of ``x``. The log-determinant log|det dz/dx| is equal for all inputs and
        not computed here.
        """
        return self._apply(self.forward_map, x), None

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Return the layer's inputs for the outputs ``z``, computed exactly or approximately.

        ``inverse`` selects the "exact" inverse, or the approximate "learned" inverse if the layer has learned an
        inverse.

        Cost: one matrix product.
        """
        learned = self.learned_map if inverse == "learned" else None
        return self._apply(learned or self.inverse_map, z)

    @cached_property
    def inverse_map(self) -> AffineMap:
        """The matrix and the offset of the exact inverse of this affine map.

        They are computed at the first use, because scoring does not need them. Cost: O(K³) for a K x K matrix.
        """
        matrix, offset = self.forward_map
        inverse = torch.linalg.inv(matrix)
        return inverse, -inverse @ offset

    @cached_property
    def reconstruction_map(self) -> AffineMap | None:
        """The affine map from an input to the learned inverse's error, which is restored input minus input.

        It is the matrix and the offset of x -> R W x - x for the weights W and the learned R ≈ W⁻¹, or None if no
        inverse was learned.
        """
        if self.learned_map is None:
            return None
        matrix, offset = _after(self.forward_map, self.learned_map)
        return matrix - torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device), offset

    @cached_property
    def reconstruction_size(self) -> float:
        """The largest absolute entry of ``reconstruction_map``, the affine map that gives the learned inverse's error.

        It scales float32 arithmetic, and is 1.0 if the map is None or 0.
        """
        if self.reconstruction_map is None:
            return 1.0
        return max(float(part.abs().max()) for part in self.reconstruction_map) or 1.0

    @property
    def has_reconstruction_error(self) -> bool:
        """Whether the layer computes errors of a learned inverse; else ``reconstruction_error`` returns None.

        This needs a learned inverse and images that are not flattened.
        """
        return self.learned_map is not None and not self.flat

    def reconstruction_error(self, x: Tensor) -> Tensor | None:
        """Return the relative squared reconstruction error of the learned inverse for each image.

        It is ||R W x - x||² / ||x||² for the learned R ≈ W⁻¹, ``(N,)``.

        It is None if no inverse was learned, and if ``flat`` is set, where it would double the cost of the layer.
        Cost: one matrix product.
        """
        if not self.has_reconstruction_error or self.reconstruction_map is None:
            return None
        error = self._apply(self.reconstruction_map, x)
        return error.square().sum((1, 2, 3)) / x.square().sum((1, 2, 3))

    def then(self, following: FrozenAffine) -> FrozenAffine:
        """Return the composition of two affine maps, this one first and ``following`` second.

        The result is a single affine map. Learned inverses are composed too. If only one of the maps has a learned
        inverse, the exact inverse of the other is used.
        """
        learned = None
        if self.learned_map is not None or following.learned_map is not None:
            learned = _after(following.learned_map or following.inverse_map, self.learned_map or self.inverse_map)
        return FrozenAffine(_after(self.forward_map, following.forward_map), learned, self.flat)

    def _apply(self, affine: AffineMap, x: Tensor) -> Tensor:
        matrix, offset = affine
        if self.flat:
            return torch.addmm(offset, x.flatten(1), matrix.T).view_as(x)
        return (torch.matmul(matrix, x.flatten(2)) + offset.view(1, -1, 1)).view_as(x)


def _after(inner: AffineMap, outer: AffineMap) -> AffineMap:
    return outer[0] @ inner[0], outer[0] @ inner[1] + outer[1]


Frozen = TypeVar("Frozen")


def moved(frozen: Frozen, device: torch.device) -> Frozen:
    """Return a copy of a frozen layer with all its tensors on ``device``.

    Args:
        frozen: The layer, or a tensor, tuple or dataclass in it.
        device: The device.

    Raises:
        TypeError: The layer is a :class:`FrozenMap`, whose functions hold their tensors.
    """
    copy: Any = frozen
    if isinstance(frozen, FrozenMap):
        raise TypeError("this layer runs on the CPU only")
    if isinstance(frozen, Tensor):
        copy = frozen.to(device)
    elif isinstance(frozen, tuple):
        copy = tuple(moved(part, device) for part in frozen)
    elif is_dataclass(frozen) and not isinstance(frozen, type):
        parts = {part.name: moved(getattr(frozen, part.name), device) for part in fields(frozen)}
        copy = replace(frozen, **parts)
    result: Frozen = copy
    return result


@dataclass(frozen=True)
class FrozenMap:
    """Read-only layer for scoring, which calls given Python functions to map forwards and backwards.

    The functions are its map, its exact inverse, and its learned approximate inverse or None.

    ``flat`` says whether it connects each pixel with all others.
    """

    forward_map: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    inverse_map: Callable[[Tensor], Tensor]
    learned_map: Callable[[Tensor], Tensor] | None = None
    flat: bool = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the layer's outputs and each pixel's contribution to the Jacobian's log-determinant.

        The parts of log|det dz/dx| are in nats, ``(N, H, W)``. They are None if the log-determinant is equal for all
        images.
        """
        return self.forward_map(x)

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Return the inputs that the layer maps to ``z``, computed by the exact or the learned inverse.

        ``inverse`` selects the "exact" inverse, or the approximate "learned" inverse if the layer has learned an
        inverse.
        """
        return (self.learned_map if inverse == "learned" and self.learned_map else self.inverse_map)(z)


def has_learned_inverse(step: FrozenStep) -> bool:
    """Return whether a frozen layer has an approximate inverse that was learned in training."""
    return getattr(step, "learned_map", None) is not None
