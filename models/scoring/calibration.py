"""From a log-likelihood to a calibrated verdict: a two-sided conformal p-value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.problems import AlphaUnattainable

DEFAULT_ALPHA = 0.01


@dataclass(frozen=True)
class Reason:
    """A feature that speaks for an anomaly, with its robust z-score against the reference images."""

    feature: str
    z: float


@dataclass(frozen=True)
class Anomaly:
    """A verdict: flagged when ``p_value <= alpha``. ``score`` is -log10 p; ``statistic`` is |z|, larger = stranger."""

    p_value: float
    score: float
    is_anomaly: bool
    alpha: float
    statistic: float
    smallest_p: float
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Calibration:
    """Reference log-likelihoods, in nats: ``statistics`` gives location and spread, ``calibration`` only p-values.

    Both come from images that the flow was not trained on, and from disjoint parts.
    """

    statistics: NDArray[np.float64]
    calibration: NDArray[np.float64]

    @property
    def smallest_p(self) -> float:
        """The smallest p-value this calibration set can give: 2 / (n + 1)."""
        return min(1.0, 2 / (len(self.calibration) + 1))

    @property
    def default_alpha(self) -> float:
        """The false-alarm rate used when none is asked: 0.01, or the smallest attainable."""
        return max(DEFAULT_ALPHA, self.smallest_p)

    def p_value(self, log_likelihood: float) -> float:
        """Return min(1, 2 min(p_upper, p_lower)), each (1 + #{calibration at least as extreme}) / (n + 1).

        Images exchangeable with the calibration images are flagged at rate <= alpha (Vovk et al. 2005, ch. 2).
        """
        n = len(self._ordered)
        at_most = int(np.searchsorted(self._ordered, log_likelihood, side="right"))
        at_least = n - int(np.searchsorted(self._ordered, log_likelihood, side="left"))
        return min(1.0, 2 * (1 + min(at_most, at_least)) / (n + 1))

    def z(self, log_likelihood: float) -> float:
        """Return (log-likelihood - median) / (1.4826 MAD) of the statistics images."""
        median, spread = self._location_and_spread
        return (log_likelihood - median) / spread

    @cached_property
    def _ordered(self) -> NDArray[np.float64]:
        return np.sort(self.calibration)

    @cached_property
    def _location_and_spread(self) -> tuple[float, float]:
        median = float(np.median(self.statistics))
        spread = 1.4826 * float(np.median(np.abs(self.statistics - median)))
        return median, max(spread, 1e-9)

    def judge(self, log_likelihood: float, alpha: float | None = None) -> Anomaly:
        """Return the verdict at false-alarm rate ``alpha`` (None: the default).

        Raises ``AlphaUnattainable`` where ``alpha`` is below :attr:`smallest_p`, so that nothing could ever be flagged.
        """
        if alpha is not None and alpha < self.smallest_p:
            raise AlphaUnattainable(alpha, self.smallest_p)
        used = self.default_alpha if alpha is None else alpha
        p = self.p_value(log_likelihood)
        z = self.z(log_likelihood)
        reason = Reason("log_likelihood", z)
        return Anomaly(p, abs(math.log10(p)), p <= used, used, abs(z), self.smallest_p, (reason,))
