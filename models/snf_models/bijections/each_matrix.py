"""Inverses, solutions and log-determinants of a stack of matrices, computed one matrix at a time.

PyTorch 2.13 gives wrong results for a batch of matrices of about 150 or more rows where the factorisation (oneMKL) uses
several threads; a single matrix is right.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ROWS_IN_BATCH = 64
"""Most rows of matrices that are computed in one batch: far fewer than go wrong, and many calls would take longer."""


def inverses(matrices: Tensor) -> Tensor:
    """Return the inverse of each matrix in a stack.

    The matrices are ``(..., C, C)``. Cost: O(n·C³) for n matrices.
    """
    return _each(torch.linalg.inv, matrices)


def log_abs_dets(matrices: Tensor) -> Tensor:
    """Return the log-determinant log|det| of each matrix in a stack.

    ``(..., C, C) -> (...)``, in nats. Cost: O(n·C³) for n matrices.
    """
    return _each(lambda matrix: torch.linalg.slogdet(matrix).logabsdet, matrices)


def solutions(matrices: Tensor, right: Tensor) -> Tensor:
    """Return the solution x of A x = b for each pair of a matrix A and right-hand sides b in two stacks.

    The matrices are ``(..., C, C)``, ``right`` and the result are ``(..., C, N)``. Cost: O(n·C²·(C + N)) for n
    matrices.
    """
    return _each(torch.linalg.solve, matrices, right)


def _each(function: Callable[..., Tensor], *stacks: Tensor) -> Tensor:
    matrices = stacks[0]
    if matrices.shape[-1] <= ROWS_IN_BATCH or matrices.dim() == 2 or not matrices.numel():
        return function(*stacks)
    each = zip(*(stack.flatten(0, -3) for stack in stacks), strict=True)
    results: Tensor = torch.stack([function(*one) for one in each]).unflatten(0, matrices.shape[:-2])
    return results
