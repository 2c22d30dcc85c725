"""Bits per dimension while a flow trains, detection of diverged trainings, and search for the part that failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snf_models.bijections.base import Bijection, SelfNormalizing, Shape
from snf_models.flows.flow import Flow, walk

REPORT_SECONDS = 0.5  # shortest time between two reports
REPORT_SHARE = 0.02
"""Largest share of the training time for reports, which take long for a layer without a learned inverse."""
DIVERGED_BITS = 10.0
DIVERGED_REPORTS = 20
"""Reports in a row that are ``DIVERGED_BITS`` bits/dim worse than the first; a single spike is no divergence."""
DIVERGED_STEPS = 5
"""A training has diverged after this many steps in a row whose loss or gradient is not finite; fewer are skipped."""
DIVERGED_SHARE = 0.01  # it has also diverged where more than this share of its steps, and more than those, were skipped


class ReportHistory:
    """Reported bits per dimension, by which divergence is noticed."""

    def __init__(self, step: int, first_bits: float | None = None) -> None:
        self.first_bits = first_bits
        self.bad_in_a_row = 0
        self._step = step
        self._time: float | None = None
        self._interval = REPORT_SECONDS

    @property
    def diverged(self) -> bool:
        return self.bad_in_a_row >= DIVERGED_REPORTS

    def due(self, now: float) -> bool:
        """Return whether a report is due, 0.5 s after the last, or later where reports take long."""
        return self._time is None or now - self._time >= self._interval

    def took(self, seconds: float) -> None:
        """Record the seconds of a report, so that reports take at most 2 % of the time."""
        self._interval = max(REPORT_SECONDS, seconds / REPORT_SHARE)

    def add(self, step: int, bits: float, now: float) -> float | None:
        """Record a report; return the steps per second since the one before, None for the first."""
        rate = None if self._time is None else (step - self._step) / max(now - self._time, 1e-9)
        if self.first_bits is None:
            self.first_bits = bits
        self.bad_in_a_row = self.bad_in_a_row + 1 if bits > self.first_bits + DIVERGED_BITS else 0
        self._step, self._time = step, now
        return rate


@dataclass(frozen=True)
class Skips:
    """Counts of steps that changed no weights because loss or gradient was not finite."""

    new: int  # since the last look
    in_a_row: int  # the latest ones
    last: int
    too_many: bool  # whether the training has diverged by them, at its last step or before

    def __str__(self) -> str:
        steps = f"step {self.last} changes" if self.new == 1 else f"{self.new} steps, the last one {self.last}, change"
        return f"{steps} no weights"


class SkippedSteps:
    """Counter of skipped steps on the device. Only ``read`` waits for a GPU."""

    def __init__(self, device: torch.device, max_steps: int) -> None:
        self._in_a_row, self._total, self._last, self._too_many = torch.zeros(4, dtype=torch.int64, device=device)
        self._reported = 0
        self._most_in_a_row = min(DIVERGED_STEPS, max_steps)

    def add(self, skipped: Tensor, step: int) -> None:
        """Count a step; ``skipped`` is a boolean scalar on the device."""
        self._in_a_row = (self._in_a_row + 1) * skipped
        self._total = self._total + skipped
        self._last = torch.where(skipped, step, self._last)
        allowed = int(DIVERGED_STEPS + DIVERGED_SHARE * step)
        self._too_many = self._too_many | (self._in_a_row >= self._most_in_a_row) | (self._total > allowed)

    def read(self) -> Skips:
        counts = torch.stack([self._in_a_row, self._total, self._last, self._too_many])
        in_a_row, total, last, too_many = counts.tolist()
        new, self._reported = total - self._reported, total
        return Skips(new, in_a_row, last, bool(too_many))


def is_finite(module: nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in module.parameters())


@torch.no_grad()
def name_the_cause(flow: Flow, y: Tensor) -> str:
    """Return a sentence that names what is not finite after a step with ``y``, the transformed batch."""
    for name, parameter in flow.named_parameters():
        if not parameter.isfinite().all():
            return f"the weights {name} are not finite"
    if not y.isfinite().all():
        return "the pixel transform gave values that are not finite"
    for level_number, level in enumerate(flow.level_list(), start=1):
        for index, bijection in enumerate(level.bijections()):
            y, log_det = bijection(y)
            if not (y.isfinite().all() and log_det.isfinite().all()):
                where = f"level {level_number}, bijection {index} ({type(bijection).__name__})"
                return f"{where} gave values that are not finite"
        if level.prior is not None:
            whitened, log_det = level.prior(y)
            if not (whitened.isfinite().all() and log_det.isfinite().all()):
                return f"level {level_number}, the prior of its split gave values that are not finite"
            y = whitened[:, : level.prior.kept]
    if not y.square().sum().isfinite():
        return "the squared latents overflow"
    return "the gradients are not finite, while weights and activations are"


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
