"""Trimmed likelihood: the images that look least like the others are left out of what a flow learns from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

WINDOW = 1024
"""Images that set the threshold: those of the last steps, so that small batches know a small quantile, too."""


@dataclass(frozen=True)
class Trimmed:
    """What trimming makes of a batch of N images.

    ``deviations``: log-likelihoods minus their median, ``(N,)`` in nats. ``floor``: the log-likelihood below which an
    image is a suspect. ``weight``: N over the number of the others. ``log_likelihood``: mean of the others, in nats.
    """

    deviations: Tensor
    floor: Tensor
    weight: Tensor
    log_likelihood: Tensor

    def weights(self, log_likelihoods: Tensor) -> Tensor:
        """Return the weight of each image, ``(N,)``: 0 of a suspect; the mean over the batch is 1."""
        return self.weight * ~(log_likelihoods.detach() < self.floor)


class Suspects(nn.Module):
    """Trimmed maximum likelihood, Σ_i w_i log p(x_i) with w_i = 0 for suspects (Neykov & Müller 2003).

    Suspects are images whose log-likelihood lies further below the median of their batch than that of all but a
    ``share`` of the last 1024 images. The threshold belongs to many batches, as the number of strange images in a batch
    varies: with a fixed number left out of each, some would be learned and good ones dropped instead. It is relative
    to the median, as likelihoods rise while a flow learns, and as training omits log-dets that all images have in
    common. As ``share`` < ½, at least half of every batch is learned from.

    An image is a suspect of the flow as it is now: it counts again once the flow finds it as likely as the others.
    """

    deviations: Tensor

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("deviations", torch.full((WINDOW,), torch.nan))

    @torch.no_grad()
    def trim(self, log_likelihoods: Tensor, *, active: bool) -> Trimmed:
        """Return what becomes of a whole batch by its log-likelihoods ``(N,)``; not ``active``: nothing is left out.

        Divergence stays visible: a NaN is no suspect, and the weight 0 makes a NaN of an infinite loss.
        """
        median = log_likelihoods.quantile(0.5)
        deviations = log_likelihoods - median
        floor = median.new_tensor(-torch.inf)
        if active:
            # The batch itself belongs to the window, which begins empty: NaN, sorted to its end.
            window = self._window(deviations).sort().values
            floor = median + window[int(self.share * int((~window.isnan()).sum()))].clamp(max=0)
        kept = ~(log_likelihoods < floor)
        weight = len(kept) / kept.sum().to(log_likelihoods)
        return Trimmed(deviations, floor, weight, log_likelihoods[kept].mean())

    @torch.no_grad()
    def update(self, trimmed: Trimmed) -> None:
        """Remember the deviations of a batch once its step is taken."""
        self.deviations.copy_(self._window(trimmed.deviations)[:WINDOW])

    def _window(self, deviations: Tensor) -> Tensor:
        """Return the newest deviations first, 1024 or a whole batch."""
        return torch.cat([deviations, self.deviations[: max(0, WINDOW - len(deviations))].to(deviations)])
