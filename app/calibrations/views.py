"""API answers about the calibrations of a model version, read from the registry on disk."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from app.calibrations.schemas import CalibrationList, CalibrationView, Threshold
from models.anomaly.calibration_file import gradient_warning
from models.anomaly.false_alarms import images_needed, safe_threshold
from models.artifacts.manifest import CalibrationSummary
from models.errors import ArtifactError, CalibrationNotFound
from models.naming import parse_ref
from models.registry.calibrations import OWN
from models.registry.registry import Registry
from snf_runtime.anomaly.conformal import USUAL_ALPHAS

FROM_SUMMARY = (
    "dataset",
    "statistics_images",
    "calibration_images",
    "copies",
    "tiles",
    "folds",
    "precision",
    "deviation",
    "smallest_p",
)
"""Members of a ``CalibrationView`` that come from the summary of the calibration."""


def listing(registry: Registry, ref: str) -> CalibrationList:
    """Return all p-value calibrations of a model version, given its reference, as an API answer.

    The answer includes the number of the calibration in use.

    Raises ``ModelNotFound`` or ``ArtifactError``.
    """
    name, version = registry.locate(parse_ref(ref))
    calibrations = registry.calibrations(name, version)
    active, numbers = calibrations.active(), calibrations.numbers()
    # An active calibration that was deleted is listed as missing.
    views = [_view(registry, name, version, number, active=number == active) for number in sorted({*numbers, active})]
    return CalibrationList(model=name, version=version, active=active, calibrations=views)


def show(registry: Registry, ref: str, number: int) -> CalibrationView:
    """Return an API answer about the p-value calibration ``number`` of a model version.

    Raises:
        ModelNotFound: The model does not exist.
        CalibrationNotFound: The calibration does not exist.
        ArtifactError: The model is damaged.
    """
    name, version = registry.locate(parse_ref(ref))
    calibrations = registry.calibrations(name, version)
    if number != OWN:
        calibrations.record(number)
    return _view(registry, name, version, number, active=number == calibrations.active())


def choose(registry: Registry, ref: str, number: int) -> CalibrationList:
    """Select which calibration of a model version gives the p-values of scored images from now on.

    ``number`` is stored. All calibrations of the version are returned.

    Raises:
        ModelNotFound: The model does not exist.
        CalibrationNotFound: The calibration does not exist.
        ArtifactError: The model or the calibration is damaged.
    """
    name, version = registry.locate(parse_ref(ref))
    weights = registry.with_calibration(name, version, OWN).manifest.log_dets.weights_sha256
    registry.calibrations(name, version).choose(number, weights)
    return listing(registry, f"{name}:{version}")


def view_of(registry: Registry, name: str, version: int, number: int) -> CalibrationView:
    """Return the calibration ``number`` that a model version uses, as an API answer with ``active`` set.

    The number must be that of the calibration in use, which is not checked.

    The answer for a damaged calibration has the reason in ``problem`` and no data.
    """
    return _view(registry, name, version, number, active=True)


def _view(registry: Registry, name: str, version: int, number: int, *, active: bool) -> CalibrationView:
    try:
        if number == OWN:
            own = registry.with_calibration(name, version, OWN)
            manifest, warning = own.manifest, gradient_warning(own.path)
            return _sound(number, active, manifest.created, manifest.training.job, manifest.calibration, warning)
        calibrations = registry.calibrations(name, version)
        record, problem = calibrations.record(number), calibrations.foreign(number)
        warning = gradient_warning(calibrations.folder / str(number))
    except (ArtifactError, CalibrationNotFound) as error:
        unknown = dict.fromkeys(("created", "job", *FROM_SUMMARY))
        return CalibrationView(number=number, active=active, thresholds=[], problem=error.detail, **unknown)
    # Why it did not become active is no longer of interest where it was chosen since.
    made = record.activation
    reason = None if made is None or (active and not made.active) else made.reason
    return _sound(number, active, record.created, record.job, record.summary, warning, reason, problem)


def _sound(
    number: int,
    active: bool,
    created: datetime,
    job: str | None,
    summary: CalibrationSummary,
    warning: str | None,
    reason: str | None = None,
    problem: str | None = None,
) -> CalibrationView:
    # The bound does not hold for several folds, nor where an earlier version left strange images out of the ranks.
    exact = summary.folds == 1 and (summary.suspects_ranked or summary.suspect_share == 0)
    return CalibrationView(
        number=number,
        active=active,
        created=created,
        job=job,
        thresholds=list(advice(summary.calibration_images)) if exact else [],
        problem=problem,
        warning=warning,
        reason=reason,
        **{name: getattr(summary, name) for name in FROM_SUMMARY},
    )


@lru_cache(maxsize=256)
def advice(images: int) -> tuple[Threshold, ...]:
    """Return the recommended p-value threshold for each of six false-alarm rates from 0.1 to 10 %.

    Each threshold keeps its false-alarm rate with 95 % confidence. It is None if there are too few images.

    Args:
        images: Number of calibration images, in a single fold.
    """
    return tuple(
        Threshold(alpha=alpha, threshold=safe_threshold(images, alpha), images_needed=images_needed(alpha))
        for alpha in USUAL_ALPHAS
    )
