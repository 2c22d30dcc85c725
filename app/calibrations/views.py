"""What is told about the calibrations of a model version."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from app.calibrations.schemas import CalibrationList, CalibrationView, Threshold
from models.anomaly.conformal import ADVICE_ALPHAS, images_needed, safe_threshold
from models.artifacts.manifest import CalibrationSummary
from models.errors import ArtifactError, CalibrationNotFound
from models.naming import parse_ref
from models.registry.calibrations import OWN
from models.registry.registry import Registry


def listing(registry: Registry, ref: str) -> CalibrationList:
    """All calibrations of a version; raises `ModelNotFound`, `ArtifactError`. Blocks on the disk."""
    name, version = registry.locate(parse_ref(ref))
    calibrations = registry.calibrations(name, version)
    active, numbers = calibrations.active(), calibrations.numbers()
    # One that was chosen and deleted since is said to be missing.
    views = [_view(registry, name, version, number, active=number == active) for number in sorted({*numbers, active})]
    return CalibrationList(model=name, version=version, active=active, calibrations=views)


def one(registry: Registry, ref: str, number: int) -> CalibrationView:
    """One calibration; raises `ModelNotFound`, `CalibrationNotFound`, `ArtifactError`. Blocks on the disk."""
    name, version = registry.locate(parse_ref(ref))
    calibrations = registry.calibrations(name, version)
    if number != OWN:
        calibrations.record(number)
    return _view(registry, name, version, number, active=number == calibrations.active())


def choose(registry: Registry, ref: str, number: int) -> CalibrationList:
    """Makes a calibration the active one; raises `ModelNotFound`, `CalibrationNotFound`, `ArtifactError`."""
    name, version = registry.locate(parse_ref(ref))
    weights = registry.with_calibration(name, version, OWN).manifest.log_dets.weights_sha256
    registry.calibrations(name, version).choose(number, weights)
    return listing(registry, f"{name}:{version}")


def view_of(registry: Registry, name: str, version: int, number: int) -> CalibrationView:
    """The active calibration of a version, with what is wrong with it. Blocks on the disk."""
    return _view(registry, name, version, number, active=True)


def _view(registry: Registry, name: str, version: int, number: int, *, active: bool) -> CalibrationView:
    try:
        if number == OWN:
            manifest = registry.with_calibration(name, version, OWN).manifest
            return _whole(number, active, manifest.created, manifest.training.job, manifest.calibration)
        record = registry.calibrations(name, version).record(number)
    except (ArtifactError, CalibrationNotFound) as error:
        return CalibrationView(
            number=number,
            active=active,
            **dict.fromkeys(
                (
                    "created",
                    "job",
                    "dataset",
                    "statistics_images",
                    "calibration_images",
                    "folds",
                    "precision",
                    "deviation",
                    "smallest_p",
                )
            ),
            thresholds=[],
            problem=error.detail,
        )
    return _whole(number, active, record.created, record.job, record.summary)


def _whole(
    number: int, active: bool, created: datetime, job: str | None, summary: CalibrationSummary
) -> CalibrationView:
    # The bound knows neither several folds nor images that were left out for being strange.
    exact = summary.folds == 1 and summary.suspect_share == 0
    return CalibrationView(
        number=number,
        active=active,
        created=created,
        job=job,
        dataset=summary.dataset,
        statistics_images=summary.statistics_images,
        calibration_images=summary.calibration_images,
        folds=summary.folds,
        precision=summary.precision,
        deviation=summary.deviation,
        smallest_p=summary.smallest_p,
        thresholds=list(advice(summary.calibration_images)) if exact else [],
        problem=None,
    )


@lru_cache(maxsize=256)
def advice(images: int) -> tuple[Threshold, ...]:
    """The thresholds that keep a false-alarm rate, for a calibration of so many images in one fold."""
    return tuple(
        Threshold(alpha=alpha, threshold=safe_threshold(images, alpha), images_needed=images_needed(alpha))
        for alpha in ADVICE_ALPHAS
    )
