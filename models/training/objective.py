"""The self normalizing objective: mixture of both directions under a penalty on the reconstruction error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.bijections.base import SelfNormalizing, Shape
from models.bijections.conv1x1 import SelfNormalizingConv1x1
from models.flows.flow import Flow, walk
from models.training.config import TrainingConfig
from models.training.multipliers import Multiplier, make_multiplier
from models.training.trimming import Suspects, Trimmed


@dataclass(frozen=True)
class Loss:
    """``value`` is what is minimised, in nats a dimension; the others are for people and carry no gradient.

    ``log_likelihood``: mean of the batch in nats, *without* the log-dets that the self normalizing layers leave out.
    ``reconstruction_errors``: of each self normalizing layer, mean ||R W x - x||² / D, empty where there is none.
    ``trimmed``: what was left out of ``value`` and of the errors, None where suspects are not looked for.
    """

    value: Tensor
    log_likelihood: Tensor
    reconstruction_errors: Tensor
    trimmed: Trimmed | None = None

    @property
    def reconstruction_error(self) -> Tensor:
        """The largest error over the layers, 0 where no layer learns an inverse."""
        return torch.cat([self.reconstruction_errors, self.reconstruction_errors.new_zeros(1)]).max()


class SelfNormalizingObjective(nn.Module):
    """-mean log p / D + penalty of the reconstruction errors (Keller et al. 2021, eq. 9).

    Its state is that of the multipliers, and of what is known of suspects where they are looked for.

    The gradients of self normalizing layers stand in for the exact ones. For a flow of exact layers this is the
    negative log-likelihood. ``noise_weight`` adds to each layer's error that of white noise, E ||e - R W e||² = ||I -
    R W||_F², which sees the directions that images do not span.
    """

    def __init__(self, flow: Flow, image_shape: Shape, config: TrainingConfig) -> None:
        super().__init__()
        self.layers = [
            (layer, shape)
            for _, steps, _ in walk(flow, image_shape)
            for _, layer, shape in steps
            if isinstance(layer, SelfNormalizing)
        ]
        for layer, _ in self.layers:
            layer.symmetric = config.symmetric_reconstruction
            layer.gradient = config.gradient
        self.multiplier: Multiplier = make_multiplier(
            config.multiplier, len(self.layers), config.reconstruction_weight, config.reconstruction_target
        )
        self.noise_weight = config.noise_reconstruction
        self.refresh_every = config.refresh_inverse_every
        self.seed = config.seed
        self.suspects = Suspects(config.suspect_share) if config.suspect_share else None
        self.warmup_steps = config.warmup_steps

    def loss(
        self,
        flow: Flow,
        y: Tensor,
        pixel_log_det: Tensor,
        step: int,
        of_batch: Callable[[Tensor], Tensor] | None = None,
        gather: Callable[[Tensor], Tensor] | None = None,
    ) -> Loss:
        """Return the loss of a batch after the pixel transform, ``y`` ``(N, C, H, W)``, with its log-det ``(N,)``.

        Where ``y`` is but a slice of the batch, ``of_batch`` makes the errors of the batch from those of the slice, and
        ``gather`` the log-likelihoods of all images from those of the slice; the mean over the slices of the losses'
        gradients is the gradient of the batch. Suspects are left out of the penalty, too: its squares would let one
        image of noise outweigh the batch, and no score depends on what R makes of it.
        """
        dimensions = y[0].numel()
        log_likelihoods = flow.forward_pixels(y, pixel_log_det).log_likelihood
        trimmed, weights = None, None
        if self.suspects is not None:
            known = log_likelihoods.detach() if gather is None else gather(log_likelihoods.detach())
            trimmed = self.suspects.trim(known, active=step >= self.warmup_steps)
            weights = trimmed.weights(log_likelihoods)

        def mean(images: Tensor) -> Tensor:
            return images.mean() if weights is None else (weights * images).mean()

        value = -mean(log_likelihoods) / dimensions
        errors = y.new_zeros(0)
        if self.layers:
            errors = torch.stack([mean(layer.pop_reconstruction_error()) for layer, _ in self.layers]) / dimensions
            if self.noise_weight:
                errors = errors + self.noise_weight * self._noise_errors(step) / dimensions
            if of_batch is not None and not self.multiplier.linear:
                # The slope of the penalty is that at the batch's error; what it multiplies is the slice's gradient.
                errors = errors + (of_batch(errors.detach()) - errors.detach())
            value = value + self.multiplier.penalty(errors)
        return Loss(value, log_likelihoods.detach().mean(), errors.detach(), trimmed)

    def update(self, loss: Loss, step: int) -> None:
        """Follow the optimiser's step ``step``: move the multipliers, refresh inverses at times."""
        self.multiplier.update(loss.reconstruction_errors)
        if self.suspects is not None and loss.trimmed is not None:
            self.suspects.update(loss.trimmed)
        if self.refresh_every and (step + 1) % self.refresh_every == 0:
            for layer, shape in self.layers:
                layer.refresh_inverse(shape)

    def _noise_errors(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed << 32 | step) & (2**63 - 1))
        errors = []
        for layer, shape in self.layers:
            noise = torch.randn(1, *shape, generator=generator).to(next(layer.parameters()))
            errors.append((noise - layer.reconstruct(noise)).square().sum())
        return torch.stack(errors)


def self_normalizing_layers(flow: Flow) -> list[SelfNormalizing]:
    """Return the layers that learn their inverse, in the order of the forward direction."""
    return [module for module in flow.modules() if isinstance(module, SelfNormalizing)]


def operator_norm(linear: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 100) -> float:
    """Return the largest singular value of a linear map by power iteration on A^T A from ``start``, one sample.

    A lower estimate that grows to the norm, within about a percent after 100 iterations unless ``start`` is almost
    orthogonal to what they converge to; A^T comes from the vector-Jacobian product of ``linear``.
    """
    vector = start / start.norm()
    norm = 0.0
    for _ in range(iterations):
        image, transpose = torch.func.vjp(linear, vector)[:2]
        norm = float(image.norm())
        (vector,) = transpose(image)
        vector = vector / vector.norm().clamp(min=1e-30)
    return norm


@dataclass(frozen=True)
class InverseQuality:
    """How good a learned inverse is. ``error``: ||I - R W|| of a direction, root mean square. ``bound``: see below."""

    error: float
    bound: float | None


@torch.no_grad()
def inverse_errors(flow: Flow, image_shape: Shape, probes: int = 64) -> dict[str, float]:
    """Return the error of every learned inverse by the name of its layer, as :func:`inverse_quality` tells it."""
    return {name: _inverse_error(layer, noise) for name, layer, noise in _probed(flow, image_shape, probes)}


@torch.no_grad()
def inverse_quality(flow: Flow, image_shape: Shape, probes: int = 64) -> dict[str, InverseQuality]:
    """Return the quality of every learned inverse by the name of its layer.

    The error is estimated on white noise: E ||e - R W e||² = ||E||_F² with E = I - R W, of which the root of the mean
    over the D dimensions is given; 0 is a perfect inverse. The bound is ||W^-1 - R|| <= ||R|| ||E|| / (1 - ||E||) in
    the spectral norm, None where ||E|| >= 1, so that it does not hold. Its norms are those of the matrix for 1x1
    convolutions; for other layers they are lower estimates by power iteration (:func:`operator_norm`), and so is the
    bound: no certificate.
    """
    return {
        name: InverseQuality(_inverse_error(layer, noise), _inverse_error_bound(layer, noise[:1]))
        for name, layer, noise in _probed(flow, image_shape, probes)
    }


def _probed(flow: Flow, image_shape: Shape, probes: int) -> Iterator[tuple[str, SelfNormalizing, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _, steps, _ in walk(flow, image_shape):
        for name, layer, shape in steps:
            if isinstance(layer, SelfNormalizing):
                yield name, layer, torch.randn(probes, *shape, generator=generator).to(next(layer.parameters()))


def _inverse_error(layer: SelfNormalizing, noise: Tensor) -> float:
    return float((noise - layer.reconstruct(noise)).square().mean().sqrt())


def _inverse_error_bound(layer: SelfNormalizing, start: Tensor) -> float | None:
    if isinstance(layer, SelfNormalizingConv1x1):
        # One small matrix at every place: its norm costs less than a single product with an image.
        weight, inverse = layer.weight.double(), layer.inverse_weight.double()
        error = _spectral_norm(torch.eye(len(weight)).to(weight) - inverse @ weight)
        norm = _spectral_norm(inverse)
    else:
        error = operator_norm(lambda x: x - layer.reconstruct(x), start)
        norm = operator_norm(layer.apply_inverse_weight, start)
    return norm * error / (1 - error) if error < 1 else None


def _spectral_norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))
