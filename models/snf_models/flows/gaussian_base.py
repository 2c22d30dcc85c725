"""Learned Gaussian base distribution of a flow, one for all samples or one for each class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal


class GaussianBase(nn.Module):
    """Gaussian base distribution of a flow, with learned means and standard deviations.

    It is N(μ, diag σ²) over the latents.

    With ``classes`` there is a mean and a deviation for each class, and the context is the class of each sample. Then
    the classes share the flow, and differ in the place and the spread of their latents alone. All means start at 0 and
    all deviations at 1.

    A module that maps a context to another distribution of PyTorch can take the place of this one.

    Args:
        shape: Shape of the latents.
        classes: The number of classes; None for a base without a context.
    """

    def __init__(self, shape: Sequence[int], classes: int | None = None) -> None:
        super().__init__()
        if classes is not None and classes < 1:
            raise ValueError(f"expected at least one class, got {classes}")
        self.shape = torch.Size(shape)
        self.classes = classes
        size = self.shape if classes is None else (classes, *self.shape)
        self.mean = nn.Parameter(torch.zeros(size))
        self.log_scale = nn.Parameter(torch.zeros(size))

    def forward(self, context: Tensor | None = None) -> Independent[Normal]:
        """Return the Gaussian distribution of the latents for a context (class labels) or without one.

        Its batch shape is the shape of ``context``, and empty without a context.

        Args:
            context: Class labels from 0, integers of any shape; None for a base without classes.

        Raises:
            ValueError: There is a context and no class, or there are classes and no labels of them.
        """
        mean: Tensor = self.mean
        log_scale: Tensor = self.log_scale
        if self.classes is not None:
            labels = self._labels(context, self.classes)
            mean, log_scale = mean[labels], log_scale[labels]
        elif context is not None:
            raise ValueError("expected no context: this base distribution has no classes")
        # Values are checked before they become latents.
        normal = Normal(mean, log_scale.exp(), validate_args=False)
        return Independent(normal, len(self.shape), validate_args=False)

    @staticmethod
    def _labels(context: Tensor | None, classes: int) -> Tensor:
        expected = f"expected a context of class labels, integers from 0 to {classes - 1}"
        if context is None:
            raise ValueError(f"{expected}, got none")
        if context.is_floating_point() or context.is_complex() or context.dtype == torch.bool:
            raise ValueError(f"{expected}, got {context.dtype}")
        if context.numel() and (int(context.min()) < 0 or int(context.max()) >= classes):
            raise ValueError(f"{expected}, got labels from {int(context.min())} to {int(context.max())}")
        return context.long()
