"""Frozen steps: what a bijection becomes when a trained flow is frozen for scoring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

Inverse = Literal["exact", "learned"]
AffineMap = tuple[Tensor, Tensor]
"""A matrix ``(K, K)`` and an offset ``(K,)``, float64."""


class FrozenStep(Protocol):
    """An immutable map of float64 tensors ``(N, C, H, W)`` that never computes a determinant.

    The data-independent log-det is not here: it was computed once and stored with the model.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map ``x`` to z and its data-dependent log-det in nats where it belongs, ``(N, H, W)``; None without any."""
        ...

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Map ``z`` to x, exactly or by the learned inverse; exactly where none was learned."""
        ...


@dataclass(frozen=True)
class FrozenAffine:
    """z = A x + b on vectors: the channels of every location, or with ``flat`` the whole image as one vector.

    Two of one kind in a row fold into one with :meth:`then`. ``learned`` is None where no layer learned an inverse.
    """

    forward_map: AffineMap
    inverse_map: AffineMap
    learned_map: AffineMap | None = None
    flat: bool = False

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Return A x + b. Cost: one product."""
        return self._apply(self.forward_map, x), None

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Undo :meth:`forward` by a stored inverse. Cost: one product."""
        learned = self.learned_map if inverse == "learned" else None
        return self._apply(learned or self.inverse_map, z)

    @cached_property
    def reconstruction_map(self) -> AffineMap | None:
        """The map x -> R W x - x of the learned inverse R, None where none was learned."""
        if self.learned_map is None:
            return None
        matrix, offset = _after(self.forward_map, self.learned_map)
        return matrix - torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device), offset

    @cached_property
    def reconstruction_size(self) -> float:
        """The largest entry of :attr:`reconstruction_map`, 1 where all are 0: what float32 is to be scaled by."""
        if self.reconstruction_map is None:
            return 1.0
        return max(float(part.abs().max()) for part in self.reconstruction_map) or 1.0

    @property
    def tells_reconstruction(self) -> bool:
        """Whether :meth:`reconstruction_error` has one."""
        return self.learned_map is not None and not self.flat

    def reconstruction_error(self, x: Tensor) -> Tensor | None:
        """Return ||R W x - x||² / ||x||² of each sample, ``(N,)``; None without a learned inverse. Cost: one product.

        None also with ``flat``: there, that product would double the cost of the layer.
        """
        if not self.tells_reconstruction or self.reconstruction_map is None:
            return None
        error = self._apply(self.reconstruction_map, x)
        return error.square().sum((1, 2, 3)) / x.square().sum((1, 2, 3))

    def then(self, following: FrozenAffine) -> FrozenAffine:
        """Return the one map that does this and then ``following``."""
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
    """Return a frozen step, or what one is made of, with all its tensors on ``device``.

    Raises ``TypeError`` for steps that hide their tensors in functions.
    """
    found: Any = frozen
    if isinstance(frozen, FrozenMap):
        raise TypeError("this layer computes on the CPU alone")
    if isinstance(frozen, Tensor):
        found = frozen.to(device)
    elif isinstance(frozen, tuple):
        found = tuple(moved(part, device) for part in frozen)
    elif is_dataclass(frozen) and not isinstance(frozen, type):
        parts = {part.name: moved(getattr(frozen, part.name), device) for part in fields(frozen)}
        found = replace(frozen, **parts)
    result: Frozen = found
    return result


@dataclass(frozen=True)
class FrozenMap:
    """A frozen step from three functions; ``learned`` is None where no inverse was learned."""

    forward_map: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    inverse_map: Callable[[Tensor], Tensor]
    learned_map: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return z and its data-dependent log-det, ``(N, H, W)``."""
        return self.forward_map(x)

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Undo :meth:`forward`."""
        return (self.learned_map if inverse == "learned" and self.learned_map else self.inverse_map)(z)


def has_learned_inverse(step: FrozenStep) -> bool:
    """Whether ``step.inverse(z, "learned")`` differs from the exact one."""
    return getattr(step, "learned_map", None) is not None
