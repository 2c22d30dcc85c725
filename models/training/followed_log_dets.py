"""Estimates of the log-determinants that training leaves out, updated between exact computations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.bijections.base import Bijection, SelfNormalizing, Shape
from models.flows.flow import Flow, walk


@dataclass
class _Followed:
    """A layer, its log-det at the weights where it was last known, and the gradient of the log-det there.

    Attributes:
        layer: The layer in training.
        shape: Channels, height and width of its inputs.
        log_det: log|det dz/dx| in nats.
        weight: W.
        gradient: The gradient of the log-det in W.
    """

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
    """Tracker of the layer log-determinants that training skips, for reports of bits per dimension.

    They are estimated or computed for each report of bits per dimension.

    Between two exact computations the log-det of W changes by the integral of its gradient, which is ½ <G + G', W' - W>
    up to third order in W' - W. G is the gradient that training itself takes: R^T in place of W^-T (Keller et al. 2021,
    eq. 10). So the error is that of the learned inverse times the change since the last exact computation. A layer that
    learns no inverse has no such gradient; its determinant is computed for every report.

    Args:
        flow: The flow in training.
        image_shape: Channels, height and width of the images.
    """

    def __init__(self, flow: Flow, image_shape: Shape) -> None:
        self._flow = flow
        self._image_shape = image_shape
        self._followed: list[_Followed] = []
        self._computed: list[tuple[Bijection, Shape]] = []

    def start(self, flow: Flow, log_dets: Mapping[str, float] | None = None) -> None:
        """Start or restart the tracking of the layers' log-determinants, from their exact values.

        Training itself leaves them out.

        The exact values are given, or computed at the weights of ``flow``.

        Args:
            flow: The flow of which they are: that in training, or the moving average of its weights.
            log_dets: log|det dz/dx| in nats by the name of the layer; None to compute them.
        """
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
        """Return the sum of the log-determinants that training skips, in nats per image.

        It is for the current weights of the training.
        """
        computed = sum(layer.constant_log_det_at(shape) for layer, shape in self._computed)
        if self._followed:
            # Read all at once: each read waits for a GPU.
            changes = torch.stack([followed.follow() for followed in self._followed]).tolist()
            for followed, change in zip(self._followed, changes, strict=True):
                followed.log_det += change
        return computed + sum(followed.log_det for followed in self._followed)


def log_det_gradient(layer: SelfNormalizing, shape: Shape) -> Tensor:
    """Return the estimated gradient of a layer's log-determinant with respect to its weight matrix W.

    Training estimates the gradient of log|det dz/dx| from the learned inverse R.

    Training mixes the likelihood of the layer by W and by R in equal parts (eq. 3), so its gradient in W is half of it.

    Args:
        layer: The layer.
        shape: Channels, height and width of its inputs.
    """
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
