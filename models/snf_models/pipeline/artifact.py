"""Writing of a trained model as an artifact: weights, calibration, test results, fitness, samples and model card."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as save_arrays
from safetensors.torch import save_file as save_tensors

from snf_client.schemas.training import TrainingConfig
from snf_models.anomaly.calibrate import calibrate
from snf_models.anomaly.reference_images import (
    EvenlySpaced,
    ImageRows,
    ReferenceImages,
    every_image,
    images_in_memory,
)
from snf_models.artifacts.card import model_card
from snf_models.artifacts.files import CALIBRATION, CARD, PINNED, SAMPLES, WEIGHTS, image_digest, seal
from snf_models.artifacts.manifest import (
    MAX_INVERSE_ERROR,
    CalibrationSummary,
    Evaluation,
    FitnessCheck,
    FitnessRecord,
    LogDets,
    Manifest,
    Measure,
    PinnedSample,
    TrainingRecord,
)
from snf_models.datasets import Dataset, Images
from snf_models.disk import new_folder, remove_leftovers, sha256_file
from snf_models.features.flows import HybridFlows, TrainedFlows
from snf_models.flows.architecture import Architecture
from snf_models.pipeline.feature_fit import FittedFeatures
from snf_models.pipeline.loop import FINAL_SAMPLES, Observer, TrainedFlow
from snf_models.pipeline.presets import TrainingRecipe
from snf_models.pipeline.schedule import Schedule
from snf_models.registry.calibrations import save_calibration
from snf_models.scoring import EngineOptions
from snf_models.scoring.frozen import sample_frozen, to_pixels
from snf_models.scoring.open_density import FlowDensity, log_dets_of, open_density, pixels_of
from snf_models.scoring.torch_engine import TorchEngine
from snf_models.training.objective import inverse_errors
from snf_runtime.images.batch import stacked
from snf_runtime.images.codec import encode_png, image_grid
from snf_runtime.images.preprocessing import Pixels, Preprocessing
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.evidence import run_flow
from snf_runtime.scoring.feature_density import FeatureDensity
from snf_runtime.scoring.likelihood import bits_per_dim, score_images
from snf_runtime.scoring.pixel_density import dequantise

TIMED_IMAGES = 32  # images that are scored to measure the time of an image
FEWEST = {"statistics": 300, "calibration": 400, "test": 200}
"""Images of each part of the work that are used however little time there is, where there are so many."""

Report = Callable[[str, int, int], None]
"""A function that is called with the name of a part of the work, the images done, and the images in the part."""


def image_seconds(density: ImageDensity, images: ImageRows) -> float:
    """Measure how long an image takes to score, on a few images or, of images of several tiles, on a few tiles."""
    few, tiles_per_image = images[:TIMED_IMAGES], 1.0
    if isinstance(density, FeatureDensity) and density.tiled:
        plans = [density.plan(image) for image in images[: len(images)]]
        few = [plans[0].cut(few[0], number) for number in range(min(TIMED_IMAGES, len(plans[0])))]
        tiles_per_image = sum(map(len, plans)) / len(plans)
    score_images(density, few)  # the first run takes longer
    began = time.monotonic()
    score_images(density, few)
    return (time.monotonic() - began) * tiles_per_image / len(few)


@dataclass(frozen=True)
class EvaluationPlan:
    """Number of images by part of the evaluation, and the seconds of an image."""

    images: dict[str, int]
    seconds: float

    @classmethod
    def whole(cls, dataset: Dataset, seconds: float) -> EvaluationPlan:
        """Plan all images outside training."""
        parts = {"statistics": dataset.statistics, "calibration": dataset.calibration, "test": dataset.test}
        return cls({part: len(images) for part, images in parts.items()}, seconds)

    @property
    def total_seconds(self) -> float:
        return self.seconds * sum(self.images.values())

    def within(self, seconds: float) -> EvaluationPlan:
        """Reduce all parts alike to fit, but not below ``FEWEST``."""
        least = {part: min(count, FEWEST[part]) for part, count in self.images.items()}

        for share in np.linspace(1.0, 0.0, 201):
            counts = {part: max(least[part], int(share * count)) for part, count in self.images.items()}
            plan = replace(self, images=counts)
            if plan.total_seconds <= seconds:
                break
        return plan

    def limited(self, images: dict[str, int]) -> EvaluationPlan:
        return replace(self, images={part: min(count, images.get(part, count)) for part, count in self.images.items()})

    def part_of(self, dataset: Dataset) -> tuple[ImageRows, ImageRows, ImageRows]:
        """Return evenly spaced images for statistics, calibration and tests, as many as planned."""
        statistics, calibration, test = (
            images if self.images[part] == len(images) else EvenlySpaced([images], self.images[part], shuffled=False)
            for part, images in (
                ("statistics", dataset.statistics),
                ("calibration", dataset.calibration),
                ("test", dataset.test),
            )
        )
        return statistics, calibration, test


class EvaluationTimeLeft:
    """Remaining time by plan and speed so far; ``after`` is what follows the last image, in seconds."""

    def __init__(self, plan: EvaluationPlan, after: float) -> None:
        self._plan = plan
        self._after = after
        self._done = dict.fromkeys(plan.images, 0)
        self._began = time.monotonic()

    def seconds_left(self, part: str, done: int) -> float:
        """Return the remaining seconds when ``done`` images of ``part`` are finished."""
        if part in self._done:
            self._done[part] = done
        expected = self._plan.seconds * sum(self._done.values())
        slowness = (time.monotonic() - self._began) / expected if expected > 0 else 1.0
        return max(self._plan.total_seconds - expected, 0.0) * slowness + self._after


INVERTED_IMAGES = 100  # most held-out images on which the learned inverse is measured
FITNESS_BATCH = 50


def measure_fitness(
    density: ImageDensity,
    dataset: Dataset,
    statistics_log_likelihood: float,
    suspect_share: float,
    report: Report,
    *,
    pixels: TrainedFlow | None,
    features: FittedFeatures | None,
) -> FitnessRecord:
    """Check a model against simple densities, its last validation against the first, and its learned inverse."""
    checks = []
    of_pixels = pixels_of(density)
    if pixels is not None and of_pixels is not None:
        held_out = stacked(dataset.statistics)
        bits = bits_per_dim(statistics_log_likelihood, density.dimensions)
        if suspect_share:
            scored = [
                score.log_likelihood
                for start in range(0, len(held_out), FITNESS_BATCH)
                for score in score_images(of_pixels, held_out[start : start + FITNESS_BATCH])
            ]
            bits = bits_per_dim(-_mean_of_usual(-np.array(scored), suspect_share), density.dimensions)
        independent = independent_pixels(stacked(dataset.train), held_out)
        checks.append(_check("pixels", bits, _mean_of_usual(independent, suspect_share)))
        if pixels.first_validation is not None and pixels.last_validation is not None:
            first, training = pixels.first_validation, pixels.last_training
            if training is not None and training <= first:
                checks.append(_check("training", training, first))
            else:
                checks.append(_check("validation", pixels.last_validation, first))
        if of_pixels.frozen.has_learned_inverse:
            error = learned_inverse_error(of_pixels, held_out[:INVERTED_IMAGES], report)
            checks.append(_check("learned-inverse", error, MAX_INVERSE_ERROR))
    if features is not None:
        checks.append(_check("features", -features.record.grids[0].held_out_nats, -features.one_gaussian))
    return FitnessRecord(checks=tuple(checks))


def independent_pixels(train: Pixels, images: Pixels) -> NDArray[np.float64]:
    """Return bits/dim of each image, ``(M,)``, for values of probability (count(v) + 1) / (n + 256) in a channel."""
    channels = train.shape[1]
    counts = np.ones((channels, 256))
    for start in range(0, len(train), FITNESS_BATCH):
        # In batches, as the images may be mapped from a file that is larger than the memory.
        for channel, values in enumerate(np.moveaxis(train[start : start + FITNESS_BATCH], 1, 0)):
            counts[channel] += np.bincount(values.reshape(-1), minlength=256)
    bits = -np.log2(counts / counts.sum(1, keepdims=True))
    which = np.arange(channels)[:, None, None]
    return np.concatenate(
        [
            bits[which, images[start : start + FITNESS_BATCH]].mean((1, 2, 3))
            for start in range(0, len(images), FITNESS_BATCH)
        ]
    )


def learned_inverse_error(density: FlowDensity, images: Pixels, report: Report) -> float:
    """Return the root mean square error of pixels that the learned inverse rebuilds from latents."""
    # An engine that compiles would compile the learned inverse for this alone.
    engine, squares = TorchEngine(density.frozen), 0.0
    for start in range(0, len(images), FITNESS_BATCH):
        x = dequantise(images[start : start + FITNESS_BATCH], density.weights_digest)
        latents = run_flow(engine, density.frozen, x).latents
        back, _ = density.frozen.pixels.inverse(torch.from_numpy(engine.inverse(latents.scales, "learned")))
        squares += float(np.square(back.numpy() - x).sum())
        report("learned inverse", start + len(x), len(images))
    return math.sqrt(squares / images.size)


def _mean_of_usual(costs: NDArray[np.float64], suspect_share: float) -> float:
    """Return the mean of all costs but the given share of the largest."""
    return float(np.sort(costs)[: len(costs) - int(suspect_share * len(costs))].mean())


def _check(measure: Measure, found: float, limit: float) -> FitnessCheck:
    return FitnessCheck(measure=measure, found=found if math.isfinite(found) else None, limit=limit)


SAMPLE_SEED = 0
PINNED_COUNT = 4
"""Number of images that are stored with a model. The score of the first one is stored too, to verify a loaded model."""
REPORT_EVERY, TILED_REPORT_EVERY = 500, 16
"""Images between two reports of the evaluation, and the same of images of several tiles."""


@dataclass(frozen=True)
class TrainedModel:
    """A trained model over pixels, features, or both."""

    architecture: Architecture  # with the grids that were chosen
    flows: TrainedFlows
    pixels: TrainedFlow | None  # None for a model of features alone
    features: FittedFeatures | None  # None for a model of pixels alone
    seconds: float

    @classmethod
    def of(
        cls, architecture: Architecture, pixels: TrainedFlow | None, features: FittedFeatures | None, seconds: float
    ) -> TrainedModel:
        """Create the result from flows over pixels, features or both."""
        if features is None:
            assert pixels is not None
            return cls(architecture, pixels.flow, pixels, None, pixels.elapsed_seconds)
        if pixels is None:
            return cls(features.architecture, features.flows, None, features, seconds)
        joined = architecture.model_copy(update={"features": features.architecture})
        flows = HybridFlows(pixels.flow, features.flows).eval()
        return cls(joined, flows, pixels, features, pixels.elapsed_seconds + seconds)


def write_artifact(
    path: Path,
    dataset: Dataset,
    recipe: TrainingRecipe,
    config: TrainingConfig,
    model: TrainedModel,
    precision: str,
    observe: Observer,
    job: str | None,
    commit: str | None,
    options: EngineOptions,
    schedule: Schedule,
) -> None:
    """Calibrate, evaluate and write a model; use fewer images, and report it, if too little time is left."""
    architecture = model.architecture
    shape = dataset.image_shape
    began = time.monotonic()
    log_dets = log_dets_of(model.flows, architecture)

    tensors = model.flows.state_dict()
    remove_leftovers(path.parent, name=path.name)
    with new_folder(path, sum(tensor.nbytes for tensor in tensors.values())) as folder:
        weights = folder / WEIGHTS
        save_tensors({name: value.contiguous() for name, value in tensors.items()}, weights)
        digest = sha256_file(weights)
        density = open_density(model.flows, architecture, log_dets, digest, options)
        candidates = (dataset.test, dataset.calibration, dataset.statistics)
        pinned = _pinned(next(part for part in candidates if len(part))[:PINNED_COUNT], density)
        (folder / PINNED).write_bytes(save_arrays({"images": pinned}))
        # The finished model is frozen and checked once more.
        plan = _plan_evaluation(density, architecture, dataset, schedule, 2 * (time.monotonic() - began), observe)
        statistics, ranked, test_images = plan.part_of(dataset)
        progress = EvaluationTimeLeft(plan, 2 * (time.monotonic() - began))

        def report(part: str, done: int, images: int) -> None:
            event: dict[str, Any] = {"event": "scoring", "part": part, "done": done, "images": images}
            # The fit of features alone has a progress of its own, by the images of all its parts.
            if model.pixels is not None:
                left, spent = progress.seconds_left(part, done), schedule.spent()
                event |= {"eta_seconds": left, "progress": spent / (spent + left)}
            observe(event)

        calibration, summary = calibrate(
            density,
            _reference(dataset, config, model, statistics, ranked),
            pinned[0],
            report,
            unseen=model.features.unseen if model.features is not None else None,
        )
        if summary.copies:
            observe(
                {
                    "event": "log",
                    "message": f"{summary.copies} of {summary.copies + summary.calibration_images} calibration images "
                    f"are copies of others; a group of copies gives one rank: {summary.calibration_images} ranks",
                }
            )
        save_calibration(calibration, folder / CALIBRATION)
        test = _log_likelihoods(density, test_images, report)
        pinned_score = score_images(density, pinned[:1])[0]
        fitness = measure_fitness(
            density,
            dataset,
            summary.statistics_log_likelihood,
            config.suspect_share,
            report,
            pixels=model.pixels,
            features=model.features,
        )
        manifest = Manifest(
            created=datetime.now(UTC).replace(microsecond=0),
            architecture=architecture,
            preprocessing=dataset.preprocessing or Preprocessing(channels=shape[0], height=shape[1], width=shape[2]),
            training=TrainingRecord(
                preset=recipe.name,
                config=config.model_dump(mode="json", include=set(recipe.parameters)),
                dataset=dataset.name,
                dataset_digest=dataset.digest,
                train_images=len(every_image(dataset)) if _in_folds(model) else len(dataset.train),
                provenance=dataset.provenance,
                split=dataset.split,
                steps=0 if model.pixels is None else model.pixels.step,
                best_step=0 if model.pixels is None else model.pixels.best_step or 0,
                seconds=model.seconds,
                validation_seconds=model.pixels.validation_seconds if model.pixels is not None else None,
                precision=precision,
                started_from_commit=commit,
                versions={"python": platform.python_version(), "torch": torch.__version__},
                job=job,
                feature_fit=None if model.features is None else model.features.record,
            ),
            evaluation=_evaluation(density, summary, test, model),
            fitness=fitness,
            log_dets=LogDets(layers=log_dets, total=density.constant_log_det, weights_sha256=digest),
            calibration=summary,
            pinned=PinnedSample(image_sha256=image_digest(pinned[0]), log_likelihood=pinned_score.log_likelihood),
            files={},
        )
        pixels = pixels_of(density)
        if pixels is not None:
            samples = to_pixels(sample_frozen(pixels.engine, pixels.frozen, FINAL_SAMPLES, seed=SAMPLE_SEED))
            (folder / SAMPLES).write_bytes(encode_png(image_grid(samples)))
        (folder / CARD).write_text(model_card(manifest))
        seal(folder, manifest)
    observe({"event": "evaluation", **manifest.evaluation.model_dump()})


def _pinned(images: Images, density: ImageDensity) -> NDArray[np.uint8]:
    """Return images to be stored with a model, uint8 ``(n, C, H, W)``; of images of several tiles the middle one."""
    if not isinstance(density, FeatureDensity) or not density.tiled:
        return np.ascontiguousarray(stacked(images))
    plans = [density.plan(image) for image in images]
    return np.stack([plan.cut(image, plan.middle) for image, plan in zip(images, plans, strict=True)])


def _plan_evaluation(
    density: ImageDensity,
    architecture: Architecture,
    dataset: Dataset,
    schedule: Schedule,
    after: float,
    observe: Observer,
) -> EvaluationPlan:
    """Return how many images calibrate and test a model in the time left; report where that is not all of them."""
    plan = EvaluationPlan.whole(dataset, image_seconds(density, dataset.statistics))
    if dataset.folds is None:
        parts = {"statistics": dataset.statistics, "calibration": dataset.calibration}
        plan = plan.limited({part: images_in_memory(images, architecture) for part, images in parts.items()})
        for part, images in parts.items():
            if plan.images[part] < len(images):
                message = (
                    f"the {part} images have too many places for memory; takes {plan.images[part]} of {len(images)}"
                )
                observe({"event": "log", "message": message})
    if schedule.deadline is None or dataset.folds is not None:
        return plan
    left = schedule.deadline - time.monotonic() - after
    shorter = plan.within(left)
    if shorter.images != plan.images:
        counts = ", ".join(f"{shorter.images[part]} of {count} {part}" for part, count in plan.images.items())
        message = f"the time left is too short to calibrate and test with all images; takes {counts}"
        observe({"event": "log", "message": message})
    if shorter.total_seconds > left:
        late = shorter.total_seconds - left
        message = f"fewer images would not do for a calibration: the job ends about {late:.0f} s after its budget"
        observe({"event": "log", "message": message})
    return shorter


def _reference(
    dataset: Dataset, config: TrainingConfig, model: TrainedModel, statistics: ImageRows, calibration: ImageRows
) -> ReferenceImages:
    """Return the images to calibrate on: those held out, or all in folds if the fit was repeated without each fold."""
    reference = ReferenceImages(
        dataset.name, dataset.digest, statistics, calibration, dataset.folds, config.suspect_share
    )
    if not _in_folds(model):
        return reference
    every = every_image(dataset)
    return replace(reference, statistics=every, calibration=every[:0], folds=dataset.whole_folds)


def _in_folds(model: TrainedModel) -> bool:
    """Whether the whole fit of a model was repeated in folds, so that all images were trained on and rank."""
    return model.features is not None and model.features.unseen is not None


def _evaluation(
    density: ImageDensity, summary: CalibrationSummary, test: NDArray[np.float64], model: TrainedModel
) -> Evaluation:
    of_pixels = density.kind == "density"
    validation, nats = summary.statistics_log_likelihood, -float(test.mean()) if len(test) else None
    errors = list(inverse_errors(model.pixels.flow, density.image_shape).values()) if model.pixels is not None else []
    if model.features is not None:
        errors += model.features.flows.reconstruction_errors()
    return Evaluation(
        validation_bits_per_dim=bits_per_dim(validation, density.dimensions) if of_pixels else None,
        validation_nats=-validation,
        test_bits_per_dim=bits_per_dim(-nats, density.dimensions) if of_pixels and nats is not None else None,
        test_images=len(test),
        test_nats=nats,
        reconstruction_error=max(errors, default=None),
    )


def _log_likelihoods(
    density: ImageDensity, images: ImageRows, report: Callable[[str, int, int], None]
) -> NDArray[np.float64]:
    values: list[float] = []
    # The evidence of a batch is in memory together.
    every = TILED_REPORT_EVERY if density.tiled else REPORT_EVERY
    for start in range(0, len(images), every):
        values += [result.log_likelihood for result in score_images(density, images[start : start + every])]
        report("test", len(values), len(images))
    return np.array(values, dtype=np.float64)
