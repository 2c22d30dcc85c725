"""Statistical rule for a detection limit, from Clopper-Pearson bounds on the share of found defects."""

from __future__ import annotations

from collections.abc import Sequence

from snf_client.schemas.limits import LimitCell, LimitCurve, Shape, UndamagedImages
from snf_models.anomaly.exchangeability import clopper_pearson

FOUND_SHARE, CONFIDENCE = 0.9, 0.95
"""The share of defects that must be found, and the confidence of the one-sided bound that it is."""
HOPELESS = 0.5
"""Smaller defects are left out once the upper bound of the found share is below this."""


def limit_cell(size: int, found: int, images: int) -> LimitCell:
    """Return the found share at one size, with confidence bounds."""
    lower, upper = clopper_pearson(found, images)
    return LimitCell(size=size, found=found, images=images, share=found / images, lower=lower, upper=upper)


def undamaged_images(flagged: int, images: int) -> UndamagedImages:
    """Return the flagged share of good images with a two-sided 95 % interval, None without images."""
    share = flagged / images if images else None
    interval = clopper_pearson(flagged, images, (1 + CONFIDENCE) / 2) if images else None
    return UndamagedImages(flagged=flagged, images=images, share=share, interval=interval)


def goes_on(cell: LimitCell) -> bool:
    """Return whether smaller defects are measured: the upper bound here is at least 0.5."""
    return cell.upper >= HOPELESS


def limit_curve(shape: Shape, contrast: int | None, cells: Sequence[LimitCell]) -> LimitCurve:
    """Return the least size from which on all lower bounds are at least 0.9, tests in fixed order at 5 % each."""
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
