"""Choice of good images, unused in training and in ranks, for measuring a detection limit; free of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snf_client.schemas.limits import MIN_LIMIT_IMAGES
from snf_models.anomaly.reference_images import (
    SEED,
    EvenlySpaced,
    ImageRows,
    SelectedImages,
    as_seen,
    check_held_out,
    check_shape,
    evenly_spaced,
    every_image,
    first_copies,
    folds_digest,
    is_in_folds,
    one_fold_for_copies,
)
from snf_models.artifacts.manifest import CalibrationSummary, Manifest
from snf_models.datasets import DatasetStore, load_dataset
from snf_models.errors import DatasetUnfit

STATISTICS = "statistics part"
FOLD = "a fifth, ranked among itself by the fit to the others"
FIRST = 0
ALL = "all images; a dataset that the model was not made of"


@dataclass(frozen=True)
class GoodImages:
    """Defect-free images that were used neither to train a model nor to calibrate its p-values.

    To measure a detection limit, simulated defects are drawn into these images.

    Attributes:
        dataset: The name of their dataset.
        part: Which images of the dataset they are, in words.
        pixels: The images, uint8 ``(n, C, H, W)``; they are read when sliced.
        fold: The fold of the calibration that they are in, whose fit has not seen them; None for unused images.
    """

    dataset: str
    part: str
    pixels: ImageRows
    fold: int | None = None


def good_images(
    name: str,
    manifest: Manifest,
    calibration: CalibrationSummary,
    most: int,
    data_dir: Path | None = None,
    store: DatasetStore | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> GoodImages:
    """Choose defect-free images of a dataset, into which simulated defects can be drawn.

    There are at most ``most``, evenly spaced, in a fixed order.

    Of the dataset that the model was trained or calibrated on, these are images of the part that fitted the statistics:
    the model was not fitted to them, and no p-value is a rank among them. Where the whole fit was repeated in folds,
    they are the images of the first fold, which is ranked by a fit without it. Of any other dataset all images serve.

    Args:
        name: The dataset.
        manifest: The manifest of the model.
        calibration: The summary of the calibration whose p-values count.
        most: The largest number of images.
        data_dir: The folder of built-in datasets.
        store: The datasets of users.
        progress: Called with the number of prepared images, and of all; what it raises ends the work.

    Raises:
        DatasetNotFound: There is no such dataset.
        DatasetUnfit: The images have another shape than the model's, the model has used all of them, or the dataset has
            changed since the model was made of it.
    """
    check_unused(name, manifest, calibration)
    dataset = load_dataset(name, data_dir, store, as_seen(manifest.preprocessing), progress)
    check_shape(name, dataset.image_shape, manifest.preprocessing)
    own = dataset.digest == manifest.training.dataset_digest
    if own or dataset.digest == calibration.dataset_digest:
        # The same images may have been uploaded under another name.
        check_unused(manifest.training.dataset if own else calibration.dataset, manifest, calibration)
        if own and is_in_folds(manifest):
            images = every_image(dataset)
            known = np.zeros(len(images), np.int8) if dataset.whole_folds is None else dataset.whole_folds
            folds = one_fold_for_copies(known, first_copies(images))
            if folds_digest(folds) != calibration.folds_sha256:
                check_held_out(name, manifest)
            rows = np.flatnonzero(folds == FIRST)
            chosen = np.random.default_rng(SEED).permutation(rows[evenly_spaced(len(rows), most)])
            return GoodImages(name, FOLD, SelectedImages([images], chosen), FIRST)
        # As in a calibration: of another dataset than the model's own, the training part fits the statistics.
        return GoodImages(name, STATISTICS, EvenlySpaced([dataset.statistics if own else dataset.train], most))
    if name in (manifest.training.dataset, calibration.dataset):
        raise DatasetUnfit(
            f"the images of {name} have changed since the model was trained or calibrated on them, so it is not known "
            "which of them it has used: upload good images as a dataset of their own"
        )
    parts = [part for part in (dataset.train, dataset.statistics, dataset.calibration, dataset.test) if len(part)]
    return GoodImages(name, ALL, EvenlySpaced(parts, most))


def check_unused(name: str, manifest: Manifest, calibration: CalibrationSummary) -> None:
    """Raise ``DatasetUnfit`` unless a dataset has images used neither in training nor in ranks."""
    if name == manifest.training.dataset and is_in_folds(manifest):
        of_fold = calibration.calibration_images // calibration.folds
        # A calibration of another dataset, or of an earlier version, does not say in which fold an image was.
        if calibration.folds_sha256 is None or of_fold < MIN_LIMIT_IMAGES:
            check_held_out(name, manifest)
    elif name == calibration.dataset and calibration.folds > 1:
        raise DatasetUnfit(
            f"the p-values of the model are ranks among all images of {name} that training left out: choose another "
            "dataset of good images"
        )
