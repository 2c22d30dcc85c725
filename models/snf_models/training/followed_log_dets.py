"""Estimates of the log-dets that training leaves out, between exact computations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snf_models.bijections.base import Bijection, SelfNormalizing, Shape
from snf_models.flows.flow import Flow, walk


@dataclass
class _Followed:
    """A layer, its log-det in nats where it was last known, and its gradient in ``weight`` there."""

    layer: SelfNormalizing
    shape: Shape
    log_det: float
    weight: Tensor
    gradient: Tensor

    def follow(self) -> Tensor:
        """Return the change of the log-det to the present weights, a float64 scalar, and follow on from there."""
        weight, gradient = self.layer.weight.detach().clone(), log_det_gradient(self.layer, self.shape)
        change = ((self.gradient + gradient).double() * (weight - self.weight).double()).sum()
        self.weight, self.gradient = weight, gradient
        return 0.5 * change


class FollowedLogDets:
    """Tracker of log-dets, which change by ½ <G + G', W' - W> up to third order, for their gradient G in W."""

    def __init__(self, flow: Flow, image_shape: Shape) -> None:
        self._flow = flow
        self._image_shape = image_shape
        self._followed: list[_Followed] = []
        self._computed: list[tuple[Bijection, Shape]] = []

    def start(self, flow: Flow, log_dets: Mapping[str, float] | None = None) -> None:
        """Restart from exact log-dets in nats by the name of the layer, or from those computed of ``flow``."""
        self._followed, self._computed = [], []
        origins = {name: layer for _, steps, _ in walk(flow, self._image_shape) for name, layer, _ in steps}
        for _, steps, _ in walk(self._flow, self._image_shape):
            for name, layer, shape in steps:
                origin = origins[name]
                if isinstance(layer, SelfNormalizing) and isinstance(origin, SelfNormalizing):
                    weight = origin.weight.detach().clone()
                    gradient = log_det_gradient(origin, shape)
                    log_det = origin.constant_log_det_at(shape) if log_dets is None else log_dets[name]
                    self._followed.append(_Followed(layer, shape, log_det, weight, gradient))
                elif layer.omits_log_det:
                    self._computed.append((layer, shape))

    def total(self) -> float:
        """Return the sum of the log-dets that training skips, in nats per image."""
        computed = sum(layer.constant_log_det_at(shape) for layer, shape in self._computed)
        if self._followed:
            # Read all at once: each read waits for a GPU.
            changes = torch.stack([followed.follow() for followed in self._followed]).tolist()
            for followed, change in zip(self._followed, changes, strict=True):
                followed.log_det += change
        return computed + sum(followed.log_det for followed in self._followed)


def log_det_gradient(layer: SelfNormalizing, shape: Shape) -> Tensor:
    """Return the gradient of log|det| in W. That of training is half of it, as it mixes W and R (eq. 3)."""
    if not layer.weight.requires_grad:
        return torch.zeros_like(layer.weight)  # it is kept, and so is its log-det
    mode = layer.training
    layer.train()
    try:
        with torch.enable_grad():
            # The log-det is the same for all images, and zeros take no part in any other gradient.
            result: Any = layer(torch.zeros(1, *shape, device=layer.weight.device, dtype=layer.weight.dtype))
            layer.pop_reconstruction_error()
            (gradient,) = torch.autograd.grad(result[1].sum(), layer.weight)
    finally:
        layer.train(mode)
    return 2 * gradient
