"""Detection of diverged training runs, and search for the part of the flow that failed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snf_models.flows.flow import Flow

REPORT_SECONDS = 0.5
"""Shortest time between two reports."""
REPORT_SHARE = 0.02
"""Largest share of the training time for reports, which take long for a layer without a learned inverse."""
DIVERGED_BITS = 10.0
DIVERGED_REPORTS = 20
"""Reports in a row that are ``DIVERGED_BITS`` bits/dim worse than the first; a single spike is no divergence."""
DIVERGED_STEPS = 5
"""A training has diverged after this many steps in a row whose loss or gradient is not finite; fewer are skipped."""
DIVERGED_SHARE = 0.01
"""It has also diverged where more than this share of its steps, and more than those, were skipped."""


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
