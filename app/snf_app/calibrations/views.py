"""API answers about the calibrations of a model version, read from the registry on disk."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from snf_client.schemas.calibrations import CalibrationList, CalibrationView, Threshold
from snf_models.anomaly.exchangeability import images_needed, safe_threshold
from snf_models.artifacts.manifest import CalibrationSummary
from snf_models.errors import ArtifactError, CalibrationNotFound
from snf_models.naming import parse_ref
from snf_models.registry.calibrations import OWN, gradient_warning
from snf_models.registry.registry import Registry
from snf_runtime.anomaly.calibration import USUAL_ALPHAS

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
    """Return all calibrations of a version; raise ``ModelNotFound`` or ``ArtifactError``."""
    name, version = registry.locate(parse_ref(ref))
    calibrations = registry.calibrations(name, version)
    active, numbers = calibrations.active(), calibrations.numbers()
    # An active calibration that was deleted is listed as missing.
    views = [_view(registry, name, version, number, active=number == active) for number in sorted({*numbers, active})]
    return CalibrationList(model=name, version=version, active=active, calibrations=views)


def show(registry: Registry, ref: str, number: int) -> CalibrationView:
    """Return a calibration; raise ``ModelNotFound``, ``CalibrationNotFound`` or ``ArtifactError``."""
    name, version = registry.locate(parse_ref(ref))
    calibrations = registry.calibrations(name, version)
    if number != OWN:
        calibrations.record(number)
    return _view(registry, name, version, number, active=number == calibrations.active())


def choose(registry: Registry, ref: str, number: int) -> CalibrationList:
    """Activate a calibration and return all; raise ``ModelNotFound``, ``CalibrationNotFound`` or ``ArtifactError``."""
    name, version = registry.locate(parse_ref(ref))
    weights = registry.with_calibration(name, version, OWN).manifest.log_dets.weights_sha256
    registry.calibrations(name, version).choose(number, weights)
    return listing(registry, f"{name}:{version}")


def view_of(registry: Registry, name: str, version: int, number: int) -> CalibrationView:
    """Return the calibration in use, which is not checked; a damaged one has its ``problem`` and no data."""
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
    """Return thresholds for six rates with 95 % confidence, from the images of a single fold."""
    return tuple(
        Threshold(alpha=alpha, threshold=safe_threshold(images, alpha), images_needed=images_needed(alpha))
        for alpha in USUAL_ALPHAS
    )
