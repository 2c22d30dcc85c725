"""Whether a new calibration replaces the active one. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from snf_models.artifacts.manifest import Activation, CalibrationSummary
from snf_runtime.anomaly.conformal import USUAL_ALPHAS


def attainable(smallest_p: float) -> tuple[float, ...]:
    """Return the usual false-alarm rates that are at least ``smallest_p``."""
    return tuple(alpha for alpha in USUAL_ALPHAS if alpha >= smallest_p)


@dataclass(frozen=True)
class UnlessCoarser:
    """Rule that activates a calibration unless a usual rate is lost. ``own`` is the summary of calibration 0."""

    own: CalibrationSummary

    @staticmethod
    def decide(number: int, smallest_p: float, used: int, used_smallest_p: float) -> Activation:
        """Decide whether calibration ``number`` replaces ``used``, with a reason if not.

        >>> UnlessCoarser.decide(1, 1 / 61, 0, 1 / 66).active
        True
        >>> UnlessCoarser.decide(1, 1 / 31, 0, 1 / 66).reason.partition("; ")[0]
        'its smallest p-value is 0.0323, that of calibration 0 in use 0.0152: it could no longer flag at alpha 0.02'
        """
        lost = [f"{alpha:g}" for alpha in attainable(used_smallest_p) if alpha < smallest_p]
        if not lost:
            return Activation(active=True)
        *others, last = lost
        alphas = f"{', '.join(others)} and {last}" if others else last
        return Activation(
            active=False,
            reason=f"its smallest p-value is {smallest_p:.3g}, that of calibration {used} in use "
            f"{used_smallest_p:.3g}: it could no longer flag at alpha {alphas}; choose calibration {number} to use it "
            "all the same",
        )
