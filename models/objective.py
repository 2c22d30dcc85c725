"""The objective of training: exact likelihood, or the self normalizing mixture with its reconstruction penalty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.bijections.base import SelfNormalizing, Shape
from models.flow import Flow, walk


@dataclass(frozen=True)
class Loss:
    """``value`` is what is minimised, in nats a dimension; the others are for people and carry no gradient.

    ``log_likelihood``: mean of the batch in nats, *without* the log-dets that the self normalizing layers leave out.
    ``reconstruction_error``: largest over the layers of mean ||R W x - x||² / D, 0 where no layer learns an inverse.
    """

    value: Tensor
    log_likelihood: Tensor
    reconstruction_error: Tensor


def self_normalizing_loss(flow: Flow, y: Tensor, pixel_log_det: Tensor, reconstruction_weight: float) -> Loss:
    """Return the loss of a batch after the pixel transform, ``y`` ``(N, C, H, W)``, with its log-det ``(N,)``.

    (-mean log p + λ Σ_layers mean ||R W x - x||²) / D, with the gradients of the self normalizing layers in place of
    the exact ones (Keller et al. 2021, eq. 9). For a flow of exact layers this is the negative log-likelihood.
    """
    dimensions = y[0].numel()
    log_likelihood = flow.forward_pixels(y, pixel_log_det).log_likelihood.mean()
    errors = [layer.pop_reconstruction_error().mean() for layer in self_normalizing_layers(flow) if layer.training]
    penalty = torch.stack(errors) if errors else y.new_zeros(1)
    value = (reconstruction_weight * penalty.sum() - log_likelihood) / dimensions
    return Loss(value, log_likelihood.detach(), penalty.detach().max() / dimensions)


@torch.no_grad()
def noise_reconstruction_errors(flow: Flow, image_shape: Shape, probes: int = 64) -> dict[str, float]:
    """Return ||I - R W|| of every self normalizing layer by its name, root mean square over directions.

    Estimated on white noise: E ||e - R W e||² = ||I - R W||_F², of which the root of the mean over the D dimensions is
    given. 0 is a perfect inverse, 1 is no inverse at all.
    """
    errors = {}
    generator = torch.Generator().manual_seed(0)
    for _, steps, _ in walk(flow, image_shape):
        for name, bijection, shape in steps:
            if isinstance(bijection, SelfNormalizing):
                parameter = next(bijection.parameters())
                noise = torch.randn(probes, *shape, generator=generator).to(parameter)
                errors[name] = float((noise - bijection.reconstruct(noise)).square().mean().sqrt())
    return errors


def self_normalizing_layers(flow: Flow) -> list[SelfNormalizing]:
    """Return the layers that learn their inverse, in the order of the forward direction."""
    return [module for module in flow.modules() if isinstance(module, SelfNormalizing)]
