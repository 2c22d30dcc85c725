"""Feature models: fitted to features that are looked up, or trained by the whole product."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.features.common import FeatureRun
from benchmarks.features.lookup import FeatureTable, LookupEngine, LookupExtractor
from snf_models.anomaly.calibrate import calibrate, collect_evidence
from snf_models.anomaly.reference_images import ReferenceImages
from snf_models.datasets.dataset import Dataset
from snf_models.evaluation.metrics import separation
from snf_models.features.flows import freeze_features
from snf_models.flows.architecture import FeatureArchitecture
from snf_models.pipeline.feature_fit import fit_features
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import train
from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.images.preprocessing import Pixels
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.feature_density import FeatureDensity

PRESET = "snf-features"
ALPHAS = (0.05, 0.01)
MEASURES = ("auroc", "found at 5%", "found at 1%", "false alarms at 5%", "false alarms at 1%")


@dataclass(frozen=True)
class FittedModel:
    """A model that was fitted to one split, with its calibration."""

    density: ImageDensity
    calibration: Calibration

    def evidence(self, images: Pixels) -> Evidence:
        return collect_evidence(self.density, images).evidence

    def measured(self, normal: Evidence, strange: Evidence) -> dict[str, float]:
        """Return AUROC, anomalies that are found, and false alarms, by the anomaly statistic T."""
        values = [self.calibration.typical_statistics(of) for of in (normal, strange)]
        p_normal, p_strange = (self.calibration.p_values(of) for of in (normal, strange))
        found = {"auroc": separation(*values).auroc}
        found |= {f"found at {alpha:.0%}": float((p_strange <= alpha).mean()) for alpha in ALPHAS}
        return found | {f"false alarms at {alpha:.0%}": float((p_normal <= alpha).mean()) for alpha in ALPHAS}


def fitted_model(
    run: FeatureRun,
    table: FeatureTable,
    train: Pixels,
    reference: tuple[Pixels, Pixels],
    folds: NDArray[np.int8] | None = None,
) -> FittedModel:
    """Fit a model to training images and calibrate it, as ``snf train`` does."""
    _, channels, height, width = train.shape
    architecture = find_preset(PRESET).architecture((channels, height, width), "marginal", run.backbone)
    assert isinstance(architecture, FeatureArchitecture)
    fitted = fit_features(train, LookupExtractor(table), architecture, lambda _part, _done, _images: None, folds)
    flows = freeze_features(fitted.flows)
    digest = hashlib.sha256(b"".join(layer.matrices.numpy().tobytes() for layer in flows.places)).hexdigest()
    density = FeatureDensity(
        LookupEngine(table, flows), flows, digest, architecture.image_shape, architecture.input_size
    )
    parts = reference if folds is None else (train, train[:0])
    images = ReferenceImages("benchmark", digest, *parts, folds=folds)
    calibration, _ = calibrate(density, images, parts[0][0], lambda _part, _done, _images: None, unseen=fitted.unseen)
    return FittedModel(density, calibration)


def trained_on(run: FeatureRun, dataset: Dataset) -> Path:
    """Train a feature model as ``snf train`` does, or find that of an earlier run; return the path of its artifact."""
    return train(
        dataset,
        PRESET,
        find_preset(PRESET).config({}),
        run.folder / "trained" / f"{dataset.name}-{dataset.digest[:12]}-{run.key}",
        observe=lambda _event: None,
        should_stop=lambda: False,
        threads=run.threads,
        engine=run.options,
    )
