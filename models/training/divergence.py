"""Detection of diverged training runs, and search for the part of the flow that failed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.flows.flow import Flow

REPORT_SECONDS = 0.5
"""Shortest time between two reports."""
REPORT_SHARE = 0.02
"""Largest share of the training time for reports: where one takes long, as for a layer without a learned inverse, the
next one comes later."""
DIVERGED_BITS = 10.0
DIVERGED_REPORTS = 20
"""A training has diverged after this many reports in a row that are ``DIVERGED_BITS`` bits/dim worse than the first.

A single spike is no divergence.
"""
DIVERGED_STEPS = 5
"""A training has diverged after this many steps in a row whose loss or gradient is not finite; fewer are skipped."""
DIVERGED_SHARE = 0.01
"""It has also diverged where more than this share of its steps, and more than those, were skipped."""


class ReportHistory:
    """Summary of a training run's reported bits per dimension, kept to notice divergence.

    Args:
        step: The number of the first step.
        first_bits: Bits per dimension of the first report of an interrupted training; None where there was none.

    Attributes:
        first_bits: Bits per dimension of the first report.
        bad_in_a_row: Number of latest reports in a row that exceed ``first_bits`` by more than ``DIVERGED_BITS``.
    """

    def __init__(self, step: int, first_bits: float | None = None) -> None:
        self.first_bits = first_bits
        self.bad_in_a_row = 0
        self._step = step
        self._time: float | None = None
        self._interval = REPORT_SECONDS

    @property
    def diverged(self) -> bool:
        """Whether each of the last 20 reports was more than 10 bits per dimension above the first one."""
        return self.bad_in_a_row >= DIVERGED_REPORTS

    def due(self, now: float) -> bool:
        """Return whether enough time has passed since the last report of bits per dimension for a new one.

        This is true before the first report, then 0.5 s after the last. ``now`` is in seconds.

        It is later where reports take long (:meth:`took`).
        """
        return self._time is None or now - self._time >= self._interval

    def took(self, seconds: float) -> None:
        """Record how long a report of bits per dimension took, so that slow reports are made less often.

        ``seconds`` is the time that it took. Reports then take at most 2 % of the time.
        """
        self._interval = max(REPORT_SECONDS, seconds / REPORT_SHARE)

    def add(self, step: int, bits: float, now: float) -> float | None:
        """Record step, time and bits per dimension of a report, and return the training steps per second.

        The speed is measured since the report before. It is None for the first report.
        """
        rate = None if self._time is None else (step - self._step) / max(now - self._time, 1e-9)
        if self.first_bits is None:
            self.first_bits = bits
        self.bad_in_a_row = self.bad_in_a_row + 1 if bits > self.first_bits + DIVERGED_BITS else 0
        self._step, self._time = step, now
        return rate


@dataclass(frozen=True)
class Skips:
    """Counts of skipped training steps, and whether so many were skipped that the training has diverged.

    A step is skipped if its loss or gradient is not finite. It then changes no weights.

    Attributes:
        new: Those since the last look.
        in_a_row: The latest ones in a row; 0 where the last step changed the weights.
        last: The last of them.
        too_many: Whether the training has diverged by them, at its last step or before.
    """

    new: int
    in_a_row: int
    last: int
    too_many: bool

    def __str__(self) -> str:
        steps = f"step {self.last} changes" if self.new == 1 else f"{self.new} steps, the last one {self.last}, change"
        return f"{steps} no weights"


class SkippedSteps:
    """Counter of training steps that change no weights because their loss or gradient is not finite.

    The counts are on the device of the training, because to read them the program waits for a GPU. Whether there are
    too many is decided at every step, so that it does not depend on when they are read.

    Args:
        device: The device of the training.
        max_steps: Most steps of the training; a shorter one than five has diverged where all were skipped.
    """

    def __init__(self, device: torch.device, max_steps: int) -> None:
        self._in_a_row, self._total, self._last, self._too_many = torch.zeros(4, dtype=torch.int64, device=device)
        self._reported = 0
        self._most_in_a_row = min(DIVERGED_STEPS, max_steps)

    def add(self, skipped: Tensor, step: int) -> None:
        """Record whether a training step was skipped because its loss or gradient was not finite.

        ``skipped`` is a boolean scalar on the device, and ``step`` the number of the step.
        """
        self._in_a_row = (self._in_a_row + 1) * skipped
        self._total = self._total + skipped
        self._last = torch.where(skipped, step, self._last)
        allowed = int(DIVERGED_STEPS + DIVERGED_SHARE * step)
        self._too_many = self._too_many | (self._in_a_row >= self._most_in_a_row) | (self._total > allowed)

    def read(self) -> Skips:
        """Return the counts of training steps skipped because their loss or gradient was not finite.

        ``new`` counts those since the last call, and ``in_a_row`` the latest ones in a row.
        """
        counts = torch.stack([self._in_a_row, self._total, self._last, self._too_many])
        in_a_row, total, last, too_many = counts.tolist()
        new, self._reported = total - self._reported, total
        return Skips(new, in_a_row, last, bool(too_many))


def is_finite(module: nn.Module) -> bool:
    """Return whether all weights of a module are finite."""
    return all(bool(parameter.isfinite().all()) for parameter in module.parameters())


@torch.no_grad()
def name_the_cause(flow: Flow, y: Tensor) -> str:
    """Return a sentence that names the weights or layer where NaN or infinity arose in a training step.

    Args:
        flow: The flow in training mode, after a step whose loss or gradient was not finite.
        y: The batch of that step after the pixel transform, ``(N, C, H, W)``.

    Returns:
        The sentence. It names weights by their parameter, and a layer by its level and its index in forward order. If
        all of them are finite, it says that the latents overflow or that the gradients are not finite.
    """
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
