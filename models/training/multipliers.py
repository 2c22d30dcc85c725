"""Rules for the multiplier of each self normalizing layer's reconstruction penalty: fixed, GECO and MDMM.

Each rule turns the relative reconstruction errors rho_k = mean ||R_k W_k h_k - h_k||² / D of the layers (the mean
square per dimension) into a penalty in nats per dimension, a sum over the layers. The multipliers steer how far the
training gradient is from the exact one; scores are exact whatever they are. Their state is part of a checkpoint.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

MultiplierRule = Literal["fixed", "geco", "mdmm"]


class Multiplier(nn.Module):
    """Base class of rules for the weight of each layer's reconstruction error in the training loss.

    The relative error of a layer is the mean of ||R W x - x||² / D, for its weight matrix W and its learned inverse R.
    """

    @abstractmethod
    def penalty(self, errors: Tensor) -> Tensor:
        """Return the term of the training loss that penalises the errors of the layers' learned inverses.

        It is in nats per dimension. How the errors are weighted depends on the subclass.

        ``errors`` has the shape ``(K,)``, and the penalty is a scalar.
        """

    @abstractmethod
    def update(self, errors: Tensor) -> None:
        """Adjust how strongly each layer's reconstruction error is penalised, given the errors of a training step.

        The rule of the subclass decides how the weights of the errors change.

        ``errors`` has the shape ``(K,)``. If an error is NaN or infinite, nothing is changed.
        """

    @abstractmethod
    def values(self) -> Tensor:
        """Return the multipliers: the current weight of each layer's reconstruction error in the training loss.

        It is the factor lambda_k of the error, or of the constraint, of layer k. The K weights have the shape ``(K,)``.
        """


class FixedMultiplier(Multiplier):
    """Rule that gives the reconstruction error of each layer the same constant weight (Keller et al. 2021, eq. 3)."""

    weights: Tensor

    def __init__(self, layers: int, weight: float) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((layers,), weight))

    def penalty(self, errors: Tensor) -> Tensor:
        """Return the constant weight times the sum of the layers' reconstruction errors.

        It is lambda Σ_k rho_k for errors rho, ``(K,)``.
        """
        return (self.weights * errors).sum()

    def update(self, errors: Tensor) -> None:
        """Do nothing, as the weights of the layers' reconstruction errors in the loss are constant."""

    def values(self) -> Tensor:
        """Return the constant weight of each layer's reconstruction error in the loss.

        The K weights have the shape ``(K,)``.
        """
        return self.weights


class GecoMultiplier(Multiplier):
    """Rule that raises or lowers each layer's penalty weight to keep its reconstruction error at a target.

    The method is GECO (Rezende & Viola 2018).

    The violation is c_k = rho_k / target - 1. At every step a moving average of clip(c_k, -1, 1), with decay 0.99, is
    updated, and log lambda_k changes by 0.01 times that average: lambda_k rises while the error exceeds the target and
    falls while it is below, by one percent per step at most, within [1e-4, 1e3]. The penalty is
    Σ_k (lambda_k rho_k + ½ 0.1 relu(c_k)²). Without a target lambda_k could only grow, as rho_k is never negative.

    Args:
        layers: Number of self normalizing layers.
        weight: Start value of lambda_k.
        target: Relative error that each layer is steered to.
    """

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
        """Return the weighted sum of the layers' reconstruction errors, plus a penalty on errors above the target.

        It is Σ_k (lambda_k rho_k + 0.05 relu(rho_k / target - 1)²) for weights lambda and errors rho.
        """
        violation = torch.relu(errors / self.target - 1)
        return (self.values() * errors + 0.5 * self.DAMPING * violation.square()).sum()

    @torch.no_grad()
    def update(self, errors: Tensor) -> None:
        """Raise the penalty weights of layers whose recent error is above the target, and lower the others.

        The recent error is a moving average. A weight changes by about 1 % at most. If an error is NaN or infinite,
        nothing is changed.
        """
        # Chosen on the device: to branch here would make each step wait for a GPU.
        finite = errors.isfinite().all()
        average = self.average.lerp(_clipped_violation(errors, self.target).to(self.average), 1 - self.DECAY)
        self.average.copy_(torch.where(finite, average, self.average))
        self.log_weights += torch.where(finite, self.RATE * average, 0)
        self.log_weights.clamp_(*self.LOG_LIMITS)

    def values(self) -> Tensor:
        """Return the current weight of each layer's reconstruction error in the loss.

        The method GECO adapts these weights during training.

        The K weights have the shape ``(K,)``.
        """
        return self.log_weights.exp()


class DampedMultiplier(Multiplier):
    """Rule that uses Lagrange multipliers to keep each layer's reconstruction error below a target.

    Each multiplier weights the violation error / target - 1 of a layer. The method is MDMM (Platt & Barr 1988).

    rho_k is the relative reconstruction error of layer k.

    With c_k = rho_k / target - 1 the multipliers ascend, lambda_k += 0.001 clip(c_k, -1, 1), and are clamped at 0 as
    for inequality constraints. The penalty Σ_k (lambda_k c_k + ½ 0.1 relu(c_k)²) includes a damping term.

    Args:
        layers: Number of self normalizing layers.
        weight: Start value of lambda_k, in units of the constraint.
        target: Relative error that each layer is steered to.
    """

    RATE = 0.001
    DAMPING = 0.1

    weights: Tensor

    def __init__(self, layers: int, weight: float, target: float) -> None:
        super().__init__()
        self.target = target
        self.register_buffer("weights", torch.full((layers,), weight))

    def penalty(self, errors: Tensor) -> Tensor:
        """Return the loss term that weights the relative deviation of each reconstruction error from the target.

        It includes a damping term for errors above the target.

        It is Σ_k (lambda_k c_k + 0.05 relu(c_k)²) for weights lambda and c_k = error_k / target - 1.
        """
        constraint = errors / self.target - 1
        return (self.weights * constraint + 0.5 * self.DAMPING * torch.relu(constraint).square()).sum()

    @torch.no_grad()
    def update(self, errors: Tensor) -> None:
        """Raise the penalty weights of layers whose reconstruction error is above the target, and lower the others.

        The factor of a layer in the penalty is called its multiplier.

        The multiplier of layer k changes by 0.001 clip(error_k / target - 1, -1, 1), and stays at 0 or above. If an
        error is NaN or infinite, nothing is changed.
        """
        finite = errors.isfinite().all()
        self.weights += torch.where(finite, self.RATE * _clipped_violation(errors, self.target), 0)
        self.weights.clamp_(min=0)

    def values(self) -> Tensor:
        """Return the current Lagrange multiplier for the reconstruction error of each layer.

        It weights the violation error / target - 1 in the penalty. The K multipliers have the shape ``(K,)``.
        """
        return self.weights


def _clipped_violation(errors: Tensor, target: float) -> Tensor:
    # A violation by orders of magnitude at the start must not drive the multipliers up long after it has ended.
    return (errors / target - 1).clamp(-1, 1)


def make_multiplier(rule: MultiplierRule, layers: int, weight: float, target: float) -> Multiplier:
    """Return a new rule for weighting each layer's reconstruction error in the loss, fixed or adaptive.

    The adaptive rules, GECO and MDMM, change the weights to bring the errors to a target.

    Args:
        rule: "fixed", "geco" or "mdmm".
        layers: Number of self normalizing layers.
        weight: Start value of every multiplier.
        target: Relative error that "geco" and "mdmm" steer each layer to.
    """
    if rule == "fixed":
        return FixedMultiplier(layers, weight)
    return (GecoMultiplier if rule == "geco" else DampedMultiplier)(layers, weight, target)
