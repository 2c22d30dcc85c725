"""Statistical rule for a detection limit, from Clopper-Pearson bounds on the share of found defects."""

from __future__ import annotations

from collections.abc import Sequence

from models.anomaly.false_alarms import clopper_pearson
from models.artifacts.detection_limit import CONFIDENCE, FOUND_SHARE, LimitCell, LimitCurve, Shape, UndamagedImages

HOPELESS = 0.5
"""Smaller defects are left out once the upper bound of the found share is below this."""


def limit_cell(size: int, found: int, images: int) -> LimitCell:
    """Return a ``LimitCell``: the share of defects of one size that were found, with confidence bounds.

    The share is ``found`` divided by ``images``, the number of images with such a defect.
    """
    lower, upper = clopper_pearson(found, images)
    return LimitCell(size=size, found=found, images=images, share=found / images, lower=lower, upper=upper)


def undamaged_images(flagged: int, images: int) -> UndamagedImages:
    """Return the result on defect-free images: the share of them that is falsely flagged as anomalous.

    It comes with its two-sided 95 % interval. Both are None if there are no images.
    """
    share = flagged / images if images else None
    interval = clopper_pearson(flagged, images, (1 + CONFIDENCE) / 2) if images else None
    return UndamagedImages(flagged=flagged, images=images, share=share, interval=interval)


def goes_on(cell: LimitCell) -> bool:
    """Return whether smaller defects should be tried, given how often defects of this size were found.

    They are measured if the upper bound of this size's found share is at least 0.5.
    """
    return cell.upper >= HOPELESS


def limit_curve(shape: Shape, contrast: int | None, cells: Sequence[LimitCell]) -> LimitCurve:
    """Return the fractions of defects found at each size, and the detection limit that follows from them.

    All sizes are of one kind of defect, with the same shape and contrast.

    The limit is the smallest size at and above which all lower bounds are at least 0.9. It is None if that of the
    largest size is smaller.

    The sizes are tests in a fixed order, from the largest down to the first that fails, each at 5 %. So all sizes from
    the limit on are found in 90 % with a confidence of 95 % together.
    """
    limit: LimitCell | None = None
    for cell in sorted(cells, key=lambda cell: -cell.size):
        if cell.lower < FOUND_SHARE:
            break
        limit = cell
    return LimitCurve(
        shape=shape,
        contrast=contrast,
        cells=tuple(sorted(cells, key=lambda cell: cell.size)),
        limit=None if limit is None else limit.size,
        lower=None if limit is None else limit.lower,
    )
