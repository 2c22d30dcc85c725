"""Multipliers of the reconstruction penalty, one a layer; their state is part of a checkpoint.

All take the relative error of each layer, rho_k = mean ||R W x - x||² / D (the mean square a dimension), and give a
penalty in nats a dimension. Exactness of scores never depends on them: they steer the bias of the gradient alone.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

MultiplierRule = Literal["fixed", "geco", "mdmm"]


class Multiplier(nn.Module):
    """A rule for the multipliers: ``penalty`` belongs to the loss, ``update`` follows the optimiser's step."""

    linear: ClassVar[bool] = False
    """Whether the penalty of a batch is the mean of its parts' penalties."""

    @abstractmethod
    def penalty(self, errors: Tensor) -> Tensor:
        """Return the penalty of the relative errors ``(K,)``, a scalar in nats a dimension."""

    @abstractmethod
    def update(self, errors: Tensor) -> None:
        """Move the multipliers by the errors of this step, ``(K,)``; not finite ones are passed over."""

    @abstractmethod
    def values(self) -> Tensor:
        """Return the multipliers ``(K,)``."""


class FixedMultiplier(Multiplier):
    """The paper's penalty: lambda Σ_k rho_k (Keller et al. 2021, eq. 9)."""

    linear = True
    weights: Tensor

    def __init__(self, layers: int, weight: float) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((layers,), weight))

    def penalty(self, errors: Tensor) -> Tensor:
        """Return Σ lambda rho."""
        return (self.weights * errors).sum()

    def update(self, errors: Tensor) -> None:
        """Leave the multipliers as they are."""

    def values(self) -> Tensor:
        """Return lambda for every layer."""
        return self.weights


class GecoMultiplier(Multiplier):
    """Damped GECO with a tolerance (Rezende & Viola 2018): c = rho / target - 1 steers log lambda both ways.

    Per layer and step: the moving average of clip(c, -1, 1), decay 0.99, then log lambda += 0.01 average, at most one
    percent a step, within [1e-3, 1e4]. Penalty: mean_k (lambda_k rho_k + ½ relu(c_k)²). Without a tolerance lambda
    could only grow, as rho is never negative.
    """

    RATE = 0.01
    DECAY = 0.99
    LIMITS = (1e-3, 1e4)

    log_weights: Tensor
    average: Tensor

    def __init__(self, layers: int, weight: float, target: float) -> None:
        super().__init__()
        self.target = target
        start = torch.full((layers,), weight).clamp(*self.LIMITS)
        self.register_buffer("log_weights", start.log())
        self.register_buffer("average", torch.zeros(layers))

    def penalty(self, errors: Tensor) -> Tensor:
        """Return mean_k (lambda_k rho_k + ½ relu(c_k)²)."""
        violation = torch.relu(errors / self.target - 1)
        return (self.values() * errors + 0.5 * violation.square()).mean()

    @torch.no_grad()
    def update(self, errors: Tensor) -> None:
        """Follow the average violation."""
        if not errors.isfinite().all():
            return
        self.average.lerp_(_clipped_violation(errors, self.target).to(self.average), 1 - self.DECAY)
        self.log_weights += self.RATE * self.average
        self.log_weights.clamp_(*(torch.tensor(limit).log().item() for limit in self.LIMITS))

    def values(self) -> Tensor:
        """Return lambda for every layer."""
        return self.log_weights.exp()


class DampedMultiplier(Multiplier):
    """The modified differential method of multipliers (Platt & Barr 1988) for the constraints c = rho / target - 1 <=
    0.

    Gradient ascent on the multipliers, lambda += rate c, kept at zero or above for inequalities, and damping:
    penalty mean_k (lambda_k c_k + ½ damping relu(c_k)²). ``weight`` is where lambda starts, in units of the constraint.
    """

    RATE = 0.01
    DAMPING = 1.0

    weights: Tensor

    def __init__(self, layers: int, weight: float, target: float) -> None:
        super().__init__()
        self.target = target
        self.register_buffer("weights", torch.full((layers,), weight))

    def penalty(self, errors: Tensor) -> Tensor:
        """Return mean_k (lambda_k c_k + ½ damping relu(c_k)²)."""
        constraint = errors / self.target - 1
        return (self.weights * constraint + 0.5 * self.DAMPING * torch.relu(constraint).square()).mean()

    @torch.no_grad()
    def update(self, errors: Tensor) -> None:
        """Ascend on the multipliers."""
        if errors.isfinite().all():
            self.weights += self.RATE * _clipped_violation(errors, self.target)
            self.weights.clamp_(min=0)

    def values(self) -> Tensor:
        """Return lambda for every layer."""
        return self.weights


def _clipped_violation(errors: Tensor, target: float) -> Tensor:
    # A violation by orders of magnitude at the start must not wind the multipliers up long after it has gone.
    return (errors / target - 1).clamp(-1, 1)


def make_multiplier(rule: MultiplierRule, layers: int, weight: float, target: float) -> Multiplier:
    """Return the multiplier of this rule for ``layers`` self normalizing layers."""
    if rule == "fixed":
        return FixedMultiplier(layers, weight)
    return (GecoMultiplier if rule == "geco" else DampedMultiplier)(layers, weight, target)
