"""Decision whether a newly made calibration replaces the active calibration.

Free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.artifacts.manifest import Activation, CalibrationSummary
from snf_runtime.anomaly.conformal import USUAL_ALPHAS


def attainable(smallest_p: float) -> tuple[float, ...]:
    """Return which of the usual false-alarm rates, 0.001 to 0.1, a calibration has enough images for.

    Those below the smallest p-value of the calibration are left out.
    """
    return tuple(alpha for alpha in USUAL_ALPHAS if alpha >= smallest_p)


@dataclass(frozen=True)
class UnlessCoarser:
    """Rule that activates a new calibration unless a usual false-alarm rate could no longer be attained.

    A calibration that attains fewer of the usual rates is coarser.

    ``own`` is the summary of calibration 0, which is stored with the model.
    """

    own: CalibrationSummary

    @staticmethod
    def decide(number: int, smallest_p: float, used: int, used_smallest_p: float) -> Activation:
        """Decide whether to activate a new calibration: yes, unless a usual false-alarm rate would be lost.

        Images cannot be flagged at false-alarm rates below the smallest p-value.

        The new calibration is ``number``, the active calibration ``used``. If the active calibration stays, the result
        gives the reason.

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
