"""Multipliers of the relative reconstruction errors rho_k = mean ||R_k W_k h_k - h_k||² / D; scores do not use them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

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
