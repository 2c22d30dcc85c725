"""Inverses and log-determinants of a stack of matrices, computed one matrix at a time.

PyTorch 2.13 gives wrong results for a batch of matrices of about 150 or more rows where the factorisation (oneMKL) uses
several threads; a single matrix is right.
"""

from __future__ import annotations

import torch
from torch import Tensor


def inverses(matrices: Tensor) -> Tensor:
    """Return the inverse of each matrix in a stack.

    The matrices are ``(n, C, C)``. Cost: O(n·C³).
    """
    return torch.stack([torch.linalg.inv(matrix) for matrix in matrices])


def log_abs_dets(matrices: Tensor) -> Tensor:
    """Return the log-determinant log|det| of each matrix in a stack.

    ``(n, C, C) -> (n,)``, in nats. Cost: O(n·C³).
    """
    return torch.stack([torch.linalg.slogdet(matrix).logabsdet for matrix in matrices])
