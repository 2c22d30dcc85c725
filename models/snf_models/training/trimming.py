"""Trimmed maximum likelihood: the least likely training images are left out of the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

WINDOW = 1024
"""Number of the latest images that set the threshold: small batches alone could not estimate a small quantile."""


@dataclass(frozen=True)
class TrimmedBatch:
    log_likelihoods: Tensor  # ``(N,)`` in nats
    deviations: Tensor  # from their median, ``(N,)`` in nats
    floor: Tensor  # in nats; an image with less is left out
    weight: Tensor  # N over the number of images kept

    @property
    def log_likelihood(self) -> Tensor:
        """Mean of the images kept, in nats; waits for a GPU."""
        return self.log_likelihoods[~(self.log_likelihoods < self.floor)].mean()

    def weights(self, log_likelihoods: Tensor) -> Tensor:
        """Return the weight of each image, ``(N,)``, 0 for outliers."""
        return self.weight * ~(log_likelihoods.detach() < self.floor)


class Suspects(nn.Module):
    """Images further below their batch's median than all but a share of the last 1024 (Neykov & Müller 2003)."""

    deviations: Tensor

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("deviations", torch.full((WINDOW,), torch.nan))

    @torch.no_grad()
    def trim(self, log_likelihoods: Tensor, *, active: bool) -> TrimmedBatch:
        """Return a threshold for log-likelihoods ``(N,)``, none unless ``active``; NaN is kept, to show divergence."""
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
        """Record the deviations of a batch, if the step changed the weights (``applied``, a boolean scalar)."""
        self.deviations.copy_(torch.where(applied, self._window(trimmed.deviations)[:WINDOW], self.deviations))

    def _window(self, deviations: Tensor) -> Tensor:
        """Return the last 1024 deviations in nats, newest first, ``(max(1024, N),)``."""
        return torch.cat([deviations, self.deviations[: max(0, WINDOW - len(deviations))].to(deviations)])
