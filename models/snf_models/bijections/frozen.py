"""Frozen steps: immutable float64 forms of trained bijections, for scoring and sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

Inverse = Literal["exact", "learned"]
AffineMap = tuple[Tensor, Tensor]  # matrix ``(K, K)`` and offset ``(K,)`` of an affine map, float64


class FrozenStep(Protocol):
    """A layer in its immutable float64 form for scoring and sampling.

    A log-det that is the same for all images is computed once and stored with the model, not here.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return z, and the parts of log|det dz/dx| in nats, ``(N, H, W)``; None if it is the same for all images."""
        ...

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Return x by the exact inverse, or by the learned one if there is any and ``inverse`` is "learned"."""
        ...


@dataclass(frozen=True)
class FrozenAffine:
    """Frozen affine map ``A x + b`` of the channels of each pixel, or of whole images if ``flat``."""

    forward_map: AffineMap
    learned_map: AffineMap | None = None
    flat: bool = False

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self._apply(self.forward_map, x), None

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        learned = self.learned_map if inverse == "learned" else None
        return self._apply(learned or self.inverse_map, z)

    @cached_property
    def inverse_map(self) -> AffineMap:
        """Matrix and offset of the exact inverse, computed at the first use: scoring does not need them."""
        matrix, offset = self.forward_map
        inverse = torch.linalg.inv(matrix)
        return inverse, -inverse @ offset

    @cached_property
    def reconstruction_map(self) -> AffineMap | None:
        """Matrix and offset of x -> R W x - x; None without a learned inverse."""
        if self.learned_map is None:
            return None
        matrix, offset = _after(self.forward_map, self.learned_map)
        return matrix - torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device), offset

    @cached_property
    def reconstruction_size(self) -> float:
        """Largest entry of ``reconstruction_map``, which scales float32 arithmetic; 1 if it is None or 0."""
        if self.reconstruction_map is None:
            return 1.0
        return max(float(part.abs().max()) for part in self.reconstruction_map) or 1.0

    @property
    def has_reconstruction_error(self) -> bool:
        """Whether there is a learned inverse; not if ``flat``, where it would double the cost of the layer."""
        return self.learned_map is not None and not self.flat

    def reconstruction_error(self, x: Tensor) -> Tensor | None:
        """Return ||R W x - x||² / ||x||² of each image, ``(N,)``, or None."""
        if not self.has_reconstruction_error or self.reconstruction_map is None:
            return None
        error = self._apply(self.reconstruction_map, x)
        return error.square().sum((1, 2, 3)) / x.square().sum((1, 2, 3))

    def then(self, following: FrozenAffine) -> FrozenAffine:
        """Return the composition with a ``following`` map; exact inverses stand in for missing learned ones."""
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
    """Return a frozen layer, or a part of one, on another device; raise ``TypeError`` for a :class:`FrozenMap`."""
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
    """Frozen layer made of functions: its map, its exact inverse, and its learned inverse or None.

    ``flat`` says whether it connects each pixel with all others.
    """

    forward_map: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    inverse_map: Callable[[Tensor], Tensor]
    learned_map: Callable[[Tensor], Tensor] | None = None
    flat: bool = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.forward_map(x)

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        return (self.learned_map if inverse == "learned" and self.learned_map else self.inverse_map)(z)


def has_learned_inverse(step: FrozenStep) -> bool:
    return getattr(step, "learned_map", None) is not None
