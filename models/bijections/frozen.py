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
    """Interface of a frozen bijection: immutable, in float64, without determinants, for scoring and sampling.

    The data-independent log-det is computed once and stored with the model, not here.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return z and the data-dependent log-det at each pixel location, ``(N, H, W)`` in nats, or None."""
        ...

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Return x by the "exact" or the "learned" inverse. Without a learned inverse the exact one is used."""
        ...


@dataclass(frozen=True)
class FrozenAffine:
    """Frozen affine map z = A x + b of the channels at each pixel, or of whole images as vectors.

    Attributes:
        forward_map: A and b.
        inverse_map: Matrix and offset of the exact inverse.
        learned_map: Matrix and offset of the learned inverse, or None.
        flat: Whether the map is of whole images as vectors, ``(N, D)``.
    """

    forward_map: AffineMap
    inverse_map: AffineMap
    learned_map: AffineMap | None = None
    flat: bool = False

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Return A x + b in the shape of ``x``, and None, because the log-det is the same for all inputs."""
        return self._apply(self.forward_map, x), None

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Return x by the stored exact or learned inverse of the affine map. Cost: one matrix product."""
        learned = self.learned_map if inverse == "learned" else None
        return self._apply(learned or self.inverse_map, z)

    @cached_property
    def reconstruction_map(self) -> AffineMap | None:
        """The affine map x -> R W x - x for the learned inverse R of the matrix W, or None if none was learned."""
        if self.learned_map is None:
            return None
        matrix, offset = _after(self.forward_map, self.learned_map)
        return matrix - torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device), offset

    @cached_property
    def reconstruction_size(self) -> float:
        """The largest absolute entry of the map x -> R W x - x, or 1. It scales float32 arithmetic."""
        if self.reconstruction_map is None:
            return 1.0
        return max(float(part.abs().max()) for part in self.reconstruction_map) or 1.0

    @property
    def has_reconstruction_error(self) -> bool:
        """Whether this map has a learned inverse whose reconstruction error is computed."""
        return self.learned_map is not None and not self.flat

    def reconstruction_error(self, x: Tensor) -> Tensor | None:
        """Return ||R W x - x||² / ||x||² of each sample, the relative error of the learned inverse R, ``(N,)``.

        It is None if no inverse was learned, and if ``flat`` is set, where it would double the cost of the layer.
        Cost: one matrix product.
        """
        if not self.has_reconstruction_error or self.reconstruction_map is None:
            return None
        error = self._apply(self.reconstruction_map, x)
        return error.square().sum((1, 2, 3)) / x.square().sum((1, 2, 3))

    def then(self, following: FrozenAffine) -> FrozenAffine:
        """Return the composition of two affine maps: this map first, then ``following``."""
        learned = None
        if self.learned_map is not None or following.learned_map is not None:
            learned = _after(following.learned_map or following.inverse_map, self.learned_map or self.inverse_map)
        return FrozenAffine(
            _after(self.forward_map, following.forward_map),
            _after(following.inverse_map, self.inverse_map),
            learned,
            self.flat,
        )

    def _apply(self, affine: AffineMap, x: Tensor) -> Tensor:
        matrix, offset = affine
        if self.flat:
            return torch.addmm(offset, x.flatten(1), matrix.T).view_as(x)
        return (torch.matmul(matrix, x.flatten(2)) + offset.view(1, -1, 1)).view_as(x)


def _after(inner: AffineMap, outer: AffineMap) -> AffineMap:
    return outer[0] @ inner[0], outer[0] @ inner[1] + outer[1]


Frozen = TypeVar("Frozen")


def moved(frozen: Frozen, device: torch.device) -> Frozen:
    """Return a copy of a frozen bijection, or of a part of it, with all tensors on ``device``.

    Raises:
        TypeError: The step is a :class:`FrozenMap`, whose functions hold their tensors.
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
    """Frozen bijection given as functions: the map, its exact inverse, and its learned inverse or None."""

    forward_map: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    inverse_map: Callable[[Tensor], Tensor]
    learned_map: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return z and the data-dependent log-det at each pixel location, ``(N, H, W)`` in nats, or None."""
        return self.forward_map(x)

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Return x by the "exact" or the "learned" inverse. Without a learned inverse the exact one is used."""
        return (self.learned_map if inverse == "learned" and self.learned_map else self.inverse_map)(z)


def has_learned_inverse(step: FrozenStep) -> bool:
    """Return whether a frozen bijection has a learned approximate inverse."""
    return getattr(step, "learned_map", None) is not None
