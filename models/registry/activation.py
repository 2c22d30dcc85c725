"""Decision whether a newly made calibration replaces the active calibration.

Free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.artifacts.manifest import Activation, CalibrationSummary

USUAL_ALPHAS = (0.001, 0.01, 0.05)
"""False-alarm rates that verdicts are usually asked for at."""


def attainable(smallest_p: float) -> tuple[float, ...]:
    """Return which of the false-alarm rates 0.001, 0.01 and 0.05 a calibration has enough images for.

    Those below the smallest p-value of the calibration are left out.
    """
    return tuple(alpha for alpha in USUAL_ALPHAS if alpha >= smallest_p)


@dataclass(frozen=True)
class UnlessCoarser:
    """Rule that activates a new calibration unless this raises the smallest possible p-value.

    With a larger one, images may no longer be flagged at small false-alarm rates.

    A calibration with a larger smallest p-value is coarser.

    ``own`` is the summary of calibration 0, which is stored with the model.
    """

    own: CalibrationSummary

    @staticmethod
    def decide(number: int, smallest_p: float, used: int, used_smallest_p: float) -> Activation:
        """Decide whether to activate a new calibration: yes, unless this raises the smallest possible p-value.

        Images cannot be flagged at false-alarm rates below the smallest p-value.

        The new calibration is ``number``, the active calibration ``used``. If the active calibration stays, the result
        gives the reason.

        >>> UnlessCoarser.decide(1, 0.001, 0, 0.002).active
        True
        >>> UnlessCoarser.decide(1, 1 / 31, 0, 0.002).reason.partition("; ")[0]
        'its smallest p-value is 0.0323, that of calibration 0 in use 0.002: it could no longer flag at alpha 0.01'
        """
        if smallest_p <= used_smallest_p:
            return Activation(active=True)
        lost = [f"{alpha:g}" for alpha in attainable(used_smallest_p) if alpha < smallest_p]
        *others, last = lost or [""]
        alphas = f"{', '.join(others)} and {last}" if others else last
        loss = f"could no longer flag at alpha {alphas}" if lost else "is coarser"
        return Activation(
            active=False,
            reason=f"its smallest p-value is {smallest_p:.3g}, that of calibration {used} in use "
            f"{used_smallest_p:.3g}: it {loss}; choose calibration {number} to use it all the same",
        )
