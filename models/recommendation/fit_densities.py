"""Fit and timing of the densities over pixels and features that make up the families."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from models.atomic_files import new_folder, remove_folder, sha256_file
from models.datasets import Dataset, Images
from models.features.flows import build_feature_flows
from models.features.store import DEFAULT_FOLDER, BackboneStore
from models.flows.architecture import FeatureArchitecture, PixelArchitecture
from models.flows.no_init import NoRandomness
from models.scoring.engines.open_features import open_extractor
from models.scoring.open_density import log_dets_of, open_density, open_pixels
from models.scoring.options import EngineOptions
from models.training.config import TrainingConfig
from models.training.fit_feature_flows import Report, fit_features
from models.training.fitness import independent_pixels
from models.training.loop import Observer, Trainer
from models.training.schedule import Schedule
from models.training.step_memory import release_memory
from snf_runtime.images.batch import stacked
from snf_runtime.images.preprocessing import Preprocessing, conform_pixels
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.likelihood import bits_per_dim, score_images

log = logging.getLogger(__name__)

PartName = Literal["pixels", "features"]
RECORD, WEIGHTS = "fit.json", "weights.safetensors"
TIMED = 32
"""Images by which a speed is measured."""


@dataclass(frozen=True)
class FittedPart:
    """A fitted density."""

    density: ImageDensity
    held_out: float  # bits/dim, or nats for each feature value; smaller is better
    baseline: float  # the same of independent pixels, or of one Gaussian
    seconds: float  # of the fit
    steps: int | None = None  # None for a closed form
    preprocessing: Preprocessing | None = None  # makes images smaller; None to take them as they are

    def prepared(self, images: Images) -> Images:
        """Return images at the size that the density takes, uint8 ``(n, C, h, w)``."""
        return smaller_images(images, self.preprocessing)


def smaller_images(images: Images, preprocessing: Preprocessing | None) -> Images:
    if preprocessing is None:
        return images
    return np.stack([conform_pixels(image, preprocessing).pixels for image in images])


class _Fit(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    plan: str
    architecture: FeatureArchitecture
    held_out: float
    baseline: float
    seconds: float
    sha256: str


def fitted_features(
    images: Images,
    architecture: FeatureArchitecture,
    options: EngineOptions,
    folder: Path,
    plan: str,
    report: Report,
) -> FittedPart:
    """Fit flows over features, or load the fit of an earlier attempt with the same ``plan``."""
    stored = _stored(folder, plan)
    if stored is not None:
        record, weights = stored
        with NoRandomness():
            flows = build_feature_flows(record.architecture)
        flows.load_state_dict(weights)
    else:
        began = time.monotonic()
        store = BackboneStore(options.backbones or DEFAULT_FOLDER)
        backbone = store.by_digest(architecture.backbone, architecture.backbone_sha256)
        extractor = open_extractor(store, backbone, architecture.image_shape, architecture.input_size, options)
        fitted = fit_features(images, extractor, architecture, report)
        flows = fitted.flows
        tensors = flows.state_dict()
        with new_folder(folder, sum(tensor.nbytes for tensor in tensors.values())) as temporary:
            file = temporary / WEIGHTS
            save_file({name: value.contiguous() for name, value in tensors.items()}, file)
            record = _Fit(
                plan=plan,
                architecture=fitted.architecture,
                held_out=fitted.choices[0].held_out,
                baseline=fitted.one_gaussian,
                seconds=time.monotonic() - began,
                sha256=sha256_file(file),
            )
            (temporary / RECORD).write_text(record.model_dump_json(), encoding="utf-8")
    log_dets = log_dets_of(flows.eval(), record.architecture)
    density = open_density(flows, record.architecture, log_dets, _digest(flows), options)
    return FittedPart(density, record.held_out, record.baseline, record.seconds)


def feature_seconds(images: Images, architecture: FeatureArchitecture, options: EngineOptions) -> float:
    """Measure the seconds of the backbone for an image, after an uncounted pass."""
    store = BackboneStore(options.backbones or DEFAULT_FOLDER)
    backbone = store.by_digest(architecture.backbone, architecture.backbone_sha256)
    extractor = open_extractor(store, backbone, architecture.image_shape, architecture.input_size, options)
    batch = np.ascontiguousarray(images[:TIMED])
    extractor(batch)
    began = time.monotonic()
    extractor(batch)
    return (time.monotonic() - began) / len(batch)


def pixel_seconds(dataset: Dataset, architecture: PixelArchitecture, options: EngineOptions, folder: Path) -> float:
    """Measure the seconds of an untrained pixel flow for an image."""
    trainer = Trainer(dataset, architecture, TrainingConfig(max_steps=1), folder, lambda _event: None)
    flow = trainer.averaged.eval()
    release_memory()  # which the trainer keeps for steps that it does not take
    density = open_pixels(flow, architecture, log_dets_of(flow, architecture), "untrained", options)
    return seconds_per_image(density, dataset.train)


def seconds_per_image(density: ImageDensity, images: Images) -> float:
    """Measure the seconds of a density for an image, after an uncounted pass."""
    batch = np.ascontiguousarray(images[:TIMED])
    score_images(density, batch)
    began = time.monotonic()
    score_images(density, batch)
    return (time.monotonic() - began) / len(batch)


def trained_pixels(
    dataset: Dataset,
    good: Images,
    architecture: PixelArchitecture,
    config: TrainingConfig,
    options: EngineOptions,
    folder: Path,
    observe: Observer,
    should_stop: Callable[[], bool],
) -> FittedPart:
    """Train or resume; raise ``Interrupted``, ``TrainingDiverged`` or ``SingularLayer``."""
    began = time.monotonic()
    schedule = Schedule(config, len(dataset.statistics), began=began)
    trained = Trainer(dataset, architecture, config, folder, observe, schedule=schedule).run(should_stop)
    release_memory()
    flow = trained.flow.eval()
    density = open_pixels(flow, architecture, log_dets_of(flow, architecture), _digest(flow), options)
    mean = float(np.mean([score.log_likelihood for score in score_images(density, good)]))
    return FittedPart(
        density,
        bits_per_dim(mean, density.dimensions),
        float(independent_pixels(stacked(dataset.train), stacked(good)).mean()),
        trained.elapsed_seconds,
        trained.steps,
    )


def _stored(folder: Path, plan: str) -> tuple[_Fit, dict[str, Tensor]] | None:
    """Return a stored fit, or remove it and return None if it is damaged or of another plan."""
    if not folder.is_dir():
        return None
    try:
        record = _Fit.model_validate_json((folder / RECORD).read_bytes())
        if record.plan == plan and sha256_file(folder / WEIGHTS) == record.sha256:
            return record, load_file(folder / WEIGHTS)
        log.warning("fits the features again: those in %s belong to another comparison, or are damaged", folder.name)
    except (OSError, ValidationError, SafetensorError) as error:
        log.warning("fits the features again: those in %s cannot be read: %s", folder.name, type(error).__name__)
    remove_folder(folder)
    return None


def _digest(module: nn.Module) -> str:
    return hashlib.sha256(save({name: value.contiguous() for name, value in module.state_dict().items()})).hexdigest()
