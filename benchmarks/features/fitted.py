"""Feature models and hybrids, fitted and calibrated by the product's own code to features that are looked up."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.features.common import FeatureRun
from benchmarks.features.lookup import FeatureTable, LookupEngine, LookupExtractor
from benchmarks.features.measures import measured
from snf_models.anomaly.calibrate import calibrate, collect_evidence
from snf_models.anomaly.reference_images import ReferenceImages
from snf_models.features.fit import FitChoice
from snf_models.features.flows import freeze_features
from snf_models.flows.architecture import FeatureArchitecture
from snf_models.pipeline.feature_fit import fit_features
from snf_models.pipeline.presets import find_preset
from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.images.preprocessing import Pixels
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.feature_density import FeatureDensity, HybridDensity
from snf_runtime.scoring.pixel_density import PixelDensity

PRESET = "snf-features"


@dataclass(frozen=True)
class FittedModel:
    """A model that was fitted to one split, with its calibration.

    Attributes:
        density: Its density of features, or of pixels with that of features beside it.
        calibration: Its calibration.
        choices: Grid and shrinkage that were tried, the best first.
    """

    density: ImageDensity
    calibration: Calibration
    choices: tuple[FitChoice, ...]

    def evidence(self, images: Pixels) -> Evidence:
        """Return the evidence of images."""
        return collect_evidence(self.density, images).evidence

    def measured(self, normal: Evidence, strange: Evidence) -> dict[str, float]:
        """Return the measures of the anomaly statistic T."""
        values = [self.calibration.typical_statistics(of) for of in (normal, strange)]
        return measured(*values, *(self.calibration.p_values(of) for of in (normal, strange)))


def fitted_model(
    run: FeatureRun,
    table: FeatureTable,
    train: Pixels,
    reference: tuple[Pixels, Pixels],
    folds: NDArray[np.int8] | None = None,
    pixels: PixelDensity | None = None,
    suspect_share: float = 0.0,
) -> FittedModel:
    """Fit a model to training images and calibrate it, as ``snf train`` does.

    Args:
        run: The settings.
        table: The features of all images.
        train: Training images.
        reference: Images that statistics are fitted to, and that p-values are ranks among; not used with folds.
        folds: The fold of every training image, where the whole fit is repeated without each of them.
        pixels: The density of the pixels of a hybrid model.
        suspect_share: Share of the images that may be dirty.
    """
    _, channels, height, width = train.shape
    architecture = find_preset(PRESET).architecture((channels, height, width), "marginal", run.backbone)
    assert isinstance(architecture, FeatureArchitecture)
    fitted = fit_features(train, LookupExtractor(table), architecture, _ignore, folds, suspect_share)
    flows = freeze_features(fitted.flows)
    digest = hashlib.sha256(b"".join(layer.matrices.numpy().tobytes() for layer in flows.places)).hexdigest()
    features = FeatureDensity(
        LookupEngine(table, flows), flows, digest, architecture.image_shape, architecture.input_size
    )
    density = features if pixels is None else HybridDensity(pixels, features)
    parts = reference if folds is None else (train, train[:0])
    images = ReferenceImages("benchmark", digest, *parts, folds=folds, suspect_share=suspect_share)
    calibration, _ = calibrate(density, images, parts[0][0], _ignore, unseen=fitted.unseen)
    return FittedModel(density, calibration, fitted.choices)


def _ignore(_part: str, _done: int, _images: int) -> None:
    """Take no notice of progress."""
