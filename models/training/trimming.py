"""Trimmed maximum likelihood: outliers, the least likely training images, are left out of the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

WINDOW = 1024
"""Number of the latest images that set the threshold: small batches alone could not estimate a small quantile."""


@dataclass(frozen=True)
class TrimmedBatch:
    """Log-likelihoods of a training batch, with a threshold below which images are left out of the loss.

    Attributes:
        log_likelihoods: Of the N images, ``(N,)`` in nats.
        deviations: Log-likelihoods minus their median, ``(N,)`` in nats.
        floor: Threshold in nats: an image with a smaller log-likelihood is left out.
        weight: N over the number of images that are not left out.
    """

    log_likelihoods: Tensor
    deviations: Tensor
    floor: Tensor
    weight: Tensor

    @property
    def log_likelihood(self) -> Tensor:
        """Mean log-likelihood, in nats, of those images of the batch that are not left out of the loss.

        To compute it, the program waits for a GPU.
        """
        return self.log_likelihoods[~(self.log_likelihoods < self.floor)].mean()

    def weights(self, log_likelihoods: Tensor) -> Tensor:
        """Return the weight of each image in the training loss, 0 for outliers that are left out.

        The weights have the shape ``(N,)``. The other images get N / (number of images kept).
        """
        return self.weight * ~(log_likelihoods.detach() < self.floor)


class Suspects(nn.Module):
    """Detector of suspects: images of a training batch that are too unlikely to be used in the loss.

    See Neykov & Müller 2003.

    The objective is Σ_i w_i log p(x_i) with w_i = 0 for suspects, the images that are left out.

    The weights w_i of the other images are equal. An image is a suspect if its log-likelihood lies further below the
    median of its batch than those of all but a ``share`` of the last 1024 images, where 0 < share < ½; so at least half
    of every batch is learned from.

    The threshold spans many batches because the number of strange images differs from batch to batch: a fixed number
    left out of each would keep some of them and drop good images instead. It is relative to the median because
    likelihoods rise in training, and because training leaves out log-determinants that all images have in common.

    Whether an image is a suspect is decided anew at every step, by the flow of that step.
    """

    deviations: Tensor

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("deviations", torch.full((WINDOW,), torch.nan))

    @torch.no_grad()
    def trim(self, log_likelihoods: Tensor, *, active: bool) -> TrimmedBatch:
        """Return a ``TrimmedBatch`` with the threshold that decides which images of a batch the loss leaves out.

        The last 1024 images set the threshold. Images with a smaller log-likelihood are left out.

        Divergence stays visible: NaN is no suspect, and the weight 0 turns an infinite loss into NaN.

        Args:
            log_likelihoods: Of all images of the batch, ``(N,)`` in nats.
            active: Whether to leave images out at all; false during the warm-up.
        """
        median = log_likelihoods.quantile(0.5)
        deviations = log_likelihoods - median
        floor = torch.full_like(median, -torch.inf)
        if active:
            # The batch itself belongs to the window. The window starts as NaN, which is sorted to its end.
            window = self._window(deviations).sort().values
            suspects = (self.share * (~window.isnan()).sum().double()).long()
            floor = median + window.take(suspects).clamp(max=0)
        kept = ~(log_likelihoods < floor)
        weight = len(kept) / kept.sum().to(log_likelihoods)
        return TrimmedBatch(log_likelihoods, deviations, floor, weight)

    @torch.no_grad()
    def update(self, trimmed: TrimmedBatch, applied: Tensor) -> None:
        """Record a training batch's log-likelihoods; those of the last 1024 images set the outlier threshold.

        Stored are the deviations of its log-likelihoods from their median.

        Args:
            trimmed: The batch.
            applied: Whether the step changed the weights, a boolean scalar; if not, nothing is added.
        """
        self.deviations.copy_(torch.where(applied, self._window(trimmed.deviations)[:WINDOW], self.deviations))

    def _window(self, deviations: Tensor) -> Tensor:
        """Return the last 1024 deviations from the median log-likelihood in nats, newest first, ``(max(1024, N),)``."""
        return torch.cat([deviations, self.deviations[: max(0, WINDOW - len(deviations))].to(deviations)])
