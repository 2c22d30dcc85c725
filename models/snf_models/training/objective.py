"""Training loss of self normalizing flows, and measures of the accuracy of learned inverses.

:class:`SelfNormalizingObjective` is the loss that training minimises; :class:`BatchLoss` joins it with a flow to the
module that data-parallel training wraps. :func:`inverse_quality` measures how well each learned inverse inverts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from snf_client.schemas.training import TrainingConfig
from snf_models.bijections.base import SelfNormalizing, Shape
from snf_models.bijections.channels import SelfNormalizingConv1x1
from snf_models.bijections.devices import send
from snf_models.bijections.matrices import MatrixInverse
from snf_models.flows.flow import Flow, walk
from snf_models.training.distributed import SINGLE_PROCESS, Ranks

MultiplierRule = Literal["fixed", "geco", "mdmm"]


class Multiplier(nn.Module):
    """Rule for the weights of the layers' relative reconstruction errors, ``(K,)``, in the loss."""

    @abstractmethod
    def penalty(self, errors: Tensor) -> Tensor:
        """Return the penalty, a scalar in nats per dimension."""

    @abstractmethod
    def update(self, errors: Tensor) -> None:
        """Adjust the multipliers; do nothing if an error is NaN or infinite."""

    @abstractmethod
    def values(self) -> Tensor:
        """Return the factor of each layer's error, or of its constraint, ``(K,)``."""


class FixedMultiplier(Multiplier):
    """Constant weight (Keller et al. 2021, eq. 3)."""

    weights: Tensor

    def __init__(self, layers: int, weight: float) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((layers,), weight))

    def penalty(self, errors: Tensor) -> Tensor:
        return (self.weights * errors).sum()

    def update(self, errors: Tensor) -> None:
        """Do nothing."""

    def values(self) -> Tensor:
        return self.weights


class GecoMultiplier(Multiplier):
    """GECO (Rezende & Viola 2018): log lambda_k follows the averaged violation rho_k / target - 1, by 1 % a step."""

    RATE = 0.01
    DECAY = 0.99
    DAMPING = 0.1
    LIMITS = (1e-4, 1e3)
    LOG_LIMITS: tuple[float, ...] = tuple(torch.tensor(LIMITS).log().tolist())

    log_weights: Tensor
    average: Tensor

    def __init__(self, layers: int, weight: float, target: float) -> None:
        super().__init__()
        self.target = target
        start = torch.full((layers,), weight).clamp(*self.LIMITS)
        self.register_buffer("log_weights", start.log())
        self.register_buffer("average", torch.zeros(layers))

    def penalty(self, errors: Tensor) -> Tensor:
        violation = torch.relu(errors / self.target - 1)
        return (self.values() * errors + 0.5 * self.DAMPING * violation.square()).sum()

    @torch.no_grad()
    def update(self, errors: Tensor) -> None:
        # Chosen on the device: to branch here would make each step wait for a GPU.
        finite = errors.isfinite().all()
        average = self.average.lerp(_clipped_violation(errors, self.target).to(self.average), 1 - self.DECAY)
        self.average.copy_(torch.where(finite, average, self.average))
        self.log_weights += torch.where(finite, self.RATE * average, 0)
        self.log_weights.clamp_(*self.LOG_LIMITS)

    def values(self) -> Tensor:
        return self.log_weights.exp()


class DampedMultiplier(Multiplier):
    """MDMM (Platt & Barr 1988): lambda_k >= 0 rises by 0.001 clip(c_k, -1, 1) for c_k = rho_k / target - 1."""

    RATE = 0.001
    DAMPING = 0.1

    weights: Tensor

    def __init__(self, layers: int, weight: float, target: float) -> None:
        super().__init__()
        self.target = target
        self.register_buffer("weights", torch.full((layers,), weight))

    def penalty(self, errors: Tensor) -> Tensor:
        constraint = errors / self.target - 1
        return (self.weights * constraint + 0.5 * self.DAMPING * torch.relu(constraint).square()).sum()

    @torch.no_grad()
    def update(self, errors: Tensor) -> None:
        finite = errors.isfinite().all()
        self.weights += torch.where(finite, self.RATE * _clipped_violation(errors, self.target), 0)
        self.weights.clamp_(min=0)

    def values(self) -> Tensor:
        return self.weights


def _clipped_violation(errors: Tensor, target: float) -> Tensor:
    # A violation by orders of magnitude at the start must not drive the multipliers up long after it has ended.
    return (errors / target - 1).clamp(-1, 1)


def make_multiplier(rule: MultiplierRule, layers: int, weight: float, target: float) -> Multiplier:
    """Make a rule. "geco" and "mdmm" steer the relative error of each layer to ``target``."""
    if rule == "fixed":
        return FixedMultiplier(layers, weight)
    return (GecoMultiplier if rule == "geco" else DampedMultiplier)(layers, weight, target)


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


@dataclass(frozen=True)
class Loss:
    """Loss of a training batch in nats per dimension.

    Attributes:
        value: The loss to minimise, a scalar in nats per dimension.
        log_likelihood: Mean log-likelihood of the batch in nats, without gradient, *without* the log-determinants of
            the self normalizing layers, which training leaves out.
        reconstruction_errors: Mean ||R W x - x||² / D of each self normalizing layer, ``(K,)``, without gradient.
        trimmed: The images that were left out of ``value`` and of the errors; None where trimming is off.
    """

    value: Tensor
    log_likelihood: Tensor
    reconstruction_errors: Tensor
    trimmed: TrimmedBatch | None = None

    @property
    def kept_log_likelihood(self) -> Tensor:
        """Mean log-likelihood in nats of the images that are not left out."""
        return self.log_likelihood if self.trimmed is None else self.trimmed.log_likelihood

    @property
    def reconstruction_error(self) -> Tensor:
        """Largest of ``reconstruction_errors``, 0 without such layers."""
        return torch.cat([self.reconstruction_errors, self.reconstruction_errors.new_zeros(1)]).max()


class SelfNormalizingObjective(nn.Module):
    """Training loss of a self normalizing flow: -mean log p(x) / D plus a penalty on the errors of learned inverses.

    The paper maximises ½ log p_f(x) + ½ log p_g(x) - lambda Σ_k ||g_k(f_k(h_k)) - h_k||² (Keller et al. 2021, eq. 3),
    with W and R of each layer in place of f_k and g_k. The layers supply the gradients of the two log-likelihoods (eq.
    10 and 11). The penalty is a function of the relative reconstruction errors rho_k = mean ||R_k W_k h_k - h_k||² / D,
    where h_k, the input of layer k, has no gradient; with a fixed multiplier it is lambda Σ_k rho_k. For a flow of
    exact layers there is no penalty.

    Optionally, ``noise_reconstruction`` adds E ||e - R W e||² / D = ||I - R W||_F² / D for white noise e, which covers
    the directions that no image has, and ``suspect_share`` leaves the least likely images out (:class:`Suspects`).

    The state that a checkpoint keeps is that of the multipliers and of the trimming threshold.
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
        self.corrected_directions = config.corrected_directions
        self.refreshed = [(layer, shape) for layer, shape in self.layers if layer.learns_inverse]
        matrices = [layer for layer, _ in self.layers if isinstance(layer, MatrixInverse)]
        for layer in matrices:
            layer.set_corrected(self.corrected_directions > 0)
        self.corrected = [layer for layer in matrices if layer.corrected]
        self.seed = config.seed
        self.suspects = Suspects(config.suspect_share) if config.suspect_share else None
        self.warmup_steps = config.warmup_steps

    def loss(
        self,
        flow: Flow,
        y: Tensor,
        pixel_log_det: Tensor,
        step: int,
        ranks: Ranks = SINGLE_PROCESS,
        share: float = 1.0,
    ) -> Loss:
        """Return the training loss of a batch, of which each of several processes computes a slice.

        Args:
            flow: The flow in training mode.
            y: Images of this process after the pixel transform, ``(n, C, H, W)``.
            pixel_log_det: Log-determinants of the pixel transform, ``(n,)`` in nats.
            step: Number of the step; seeds the white noise and ends the warm-up.
            ranks: The processes that share the batch.
            share: Images of this process over images of the batch.

        Returns:
            The loss of the whole batch, the same in all processes. The mean over the processes of its gradients is the
            gradient of the whole batch.
        """
        dimensions = y[0].numel()
        log_likelihoods = flow.forward_pixels(y, pixel_log_det).log_likelihood
        # Averaged gradients cannot express trimming, whose threshold is a quantile of the whole batch, nor a penalty
        # that is not linear in the errors of the whole batch. So these numbers are exchanged before the loss is formed.
        of_batch = ranks.gather(log_likelihoods.detach(), share)
        trimmed, weights = None, None
        if self.suspects is not None:
            trimmed = self.suspects.trim(of_batch, active=step >= self.warmup_steps)
            weights = trimmed.weights(log_likelihoods)

        def mean(images: Tensor) -> Tensor:
            return images.mean() if weights is None else (weights * images).mean()

        value = ranks.mean(-mean(log_likelihoods) / dimensions, share)
        errors = y.new_zeros(0)
        if self.layers:
            # Suspects are left out of the penalty, too: its squares would let a single image of noise outweigh the
            # batch, and no score depends on what R makes of it.
            errors = torch.stack([mean(layer.pop_reconstruction_error()) for layer, _ in self.layers]) / dimensions
            if self.noise_weight:
                errors = errors + self.noise_weight * self._noise_errors(step) / dimensions
            errors = ranks.mean(errors, share)
            value = value + self.multiplier.penalty(errors)
        return Loss(value, of_batch.mean(), errors.detach(), trimmed)

    def update(self, loss: Loss, step: int, applied: Tensor | None = None) -> None:
        """Adapt multipliers, threshold and learned inverses after a step.

        Every ``refresh_inverse_every`` steps each learned R is set to the projection of W^-1 on what R can represent.
        After each step, each learned R of a matrix is made exact on ``corrected_directions`` random directions.

        Args:
            loss: The loss of the step.
            step: Number of the step.
            applied: Whether the step changed the weights, a boolean scalar on the device; None: if the loss is finite.
        """
        applied = loss.value.isfinite() if applied is None else applied
        # Multipliers ignore errors that are not finite.
        self.multiplier.update(torch.where(applied, loss.reconstruction_errors, torch.nan))
        if self.suspects is not None and loss.trimmed is not None:
            self.suspects.update(loss.trimmed, applied)
        # To invert a matrix the program waits for a GPU anyway, so that a flag may be read as well.
        if self.refresh_every and (step + 1) % self.refresh_every == 0 and applied:
            for layer, shape in self.refreshed:
                layer.refresh_inverse(shape)
        if self.corrected and applied:
            generator = self._generator(step)
            for layer in self.corrected:
                weight = layer.weight
                directions = torch.randn(len(weight), min(self.corrected_directions, len(weight)), generator=generator)
                layer.correct_inverse(send(directions, weight.device).to(weight.dtype))

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed << 32 | step) & (2**63 - 1))

    def _noise_errors(self, step: int) -> Tensor:
        generator = self._generator(step)
        errors = []
        for layer, shape in self.layers:
            weight = layer.weight
            noise = send(torch.randn(1, *shape, generator=generator), weight.device).to(weight.dtype)
            errors.append((noise - layer.reconstruct(noise)).square().sum())
        return torch.stack(errors)


class BatchLoss(nn.Module):
    """Flow and loss as one module, which ``DistributedDataParallel`` can wrap.

    It takes the whole batch and computes the loss of the slice of its own process.
    """

    def __init__(self, flow: Flow, objective: SelfNormalizingObjective, ranks: Ranks = SINGLE_PROCESS) -> None:
        super().__init__()
        self.flow = flow
        self.objective = objective
        self.ranks = ranks

    def forward(self, images: Tensor, step: int) -> Loss:
        """Return the loss of images plus noise, float64 ``(N, C, H, W)`` in [0, 256), at a step."""
        part, share = self.ranks.share(images)
        y, log_det = self.transform_pixels(part)
        return self.objective.loss(self.flow, y, log_det, step, self.ranks, share)

    @torch.no_grad()
    def transform_pixels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return y(x) and log |det dy/dx| in nats, ``(N,)``, both float32."""
        y, log_det = self.flow.pixels(images)
        return y.float(), log_det.float()


def self_normalizing_layers(flow: Flow) -> list[SelfNormalizing]:
    return [module for module in flow.modules() if isinstance(module, SelfNormalizing)]


def operator_norm(linear: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 100) -> float:
    """Estimate the largest singular value of a linear map of one sample by power iteration on A^T A.

    The estimate is never too large and grows with the iterations; after 100 it is within about 1 % of the norm, unless
    ``start`` is almost orthogonal to the leading singular vector. A^T is applied as the vector-Jacobian product.
    """
    vector = start / start.norm()
    with torch.enable_grad():
        first = vector.requires_grad_()
        mapped = linear(first)
    norm = torch.zeros(())
    for iteration in range(iterations):
        image = (linear(vector) if iteration else mapped).detach()
        norm = torch.linalg.vector_norm(image)
        # A^T is the same at every vector: one graph has all its products.
        (vector,) = torch.autograd.grad(mapped, first, image, retain_graph=True)
        vector = vector / torch.linalg.vector_norm(vector).clamp(min=1e-30)
    return float(norm)


@dataclass(frozen=True)
class InverseQuality:
    """Accuracy of a layer's learned inverse R.

    Attributes:
        error: ||I - R W||_F / sqrt(D): the root mean square of ||v - R W v|| over directions v of length 1; 0 for an
            exact inverse.
        bound: Upper bound of ||W^-1 - R|| in the spectral norm; None where ||I - R W|| >= 1, so that no bound holds.
    """

    error: float
    bound: float | None


@torch.no_grad()
def inverse_errors(flow: Flow, image_shape: Shape, probes: int = 64) -> dict[str, float]:
    """Return ||I - R W||_F / sqrt(D) by layer, estimated on ``probes`` samples of white noise."""
    return {name: _inverse_error(layer, noise) for name, layer, noise in _probed(flow, image_shape, probes)}


@torch.no_grad()
def inverse_quality(flow: Flow, image_shape: Shape, probes: int = 64) -> dict[str, InverseQuality]:
    """Return error and error bound of each layer's learned inverse by name.

    The error is estimated on ``probes`` samples of white noise e: E ||e - R W e||² = ||E||_F² with E = I - R W. The
    bound is ||W^-1 - R|| <= ||R|| ||E|| / (1 - ||E||). For 1x1 convolutions its norms are those of their matrices. For
    other layers they are estimates from below (:func:`operator_norm`), so that the bound is no certificate.
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
