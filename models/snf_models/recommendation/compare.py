"""Comparison of model families: each is trained on a part of a dataset, and its detection limits are measured."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from snf_client.schemas.limits import MIN_LIMIT_IMAGES, LimitCurve, LimitParameters, LimitRecord
from snf_client.schemas.recommendations import (
    ComparedImages,
    FamilyName,
    FamilyResult,
    RecommendationRecord,
    RecommendParameters,
)
from snf_models.anomaly.reference_images import evenly_spaced
from snf_models.datasets import Dataset, Images
from snf_models.datasets.dataset import FOLDS
from snf_models.errors import (
    BackboneMissing,
    BackboneUnfit,
    DatasetUnfit,
    EngineUnavailable,
    Interrupted,
    ScoreNotFinite,
    SingularLayer,
    TrainingDiverged,
)
from snf_models.limits.good_images import GoodImages
from snf_models.limits.measure import defect_sizes, measure_limits
from snf_models.pipeline.loop import Observer
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import train
from snf_models.recommendation.rule import (
    FAMILIES,
    NOT_COVERED,
    PRESET_OF,
    check_train_images,
    mean_rank,
    propose,
    typical_limit,
)
from snf_models.scorer import Scorer, load_model
from snf_models.scoring import EngineOptions
from snf_runtime.errors import unattainable
from snf_runtime.images.batch import stacked
from snf_runtime.images.preprocessing import Preprocessing, conform_pixels

SHARES = (0.48, 0.1, 0.22, 0.2)
"""Shares of the train part for fit, statistics, ranks, and the good images that get defects."""
MOST = (2000, 500, 1000, 100)
BLOCKS = 100
"""Runs of consecutive images that are kept together: images that follow each other may show the same part."""
MAX_SIDE, SIDE_STEP, MIN_SIDE = 64, 16, 32
"""Largest side of images for a flow over pixels; larger ones get sides that are multiples of 16, at least 32."""
TIME_SHARES: dict[FamilyName, float] = {"features": 0.1, "pixels": 0.25, "hybrid": 0.3}
"""Shares of the minutes for the trainings; the limits have the rest."""
REPORT_S = 0.5
UNAVAILABLE = (
    *(BackboneMissing, BackboneUnfit, DatasetUnfit, EngineUnavailable),
    *(TrainingDiverged, SingularLayer, ScoreNotFinite),
)
"""Errors that leave a family out of a comparison, with their text as the reason."""


def compare_families(
    dataset: Dataset,
    parameters: RecommendParameters,
    folder: Path,
    *,
    observe: Observer,
    should_stop: Callable[[], bool],
    options: EngineOptions | None = None,
    threads: int | None = None,
    job: str | None = None,
) -> RecommendationRecord:
    """Propose a family by images of the train part. Raises ``DatasetUnfit``, or ``Interrupted`` to be resumed.

    The trained models and the counts of found defects stay in ``folder``, where another call finds them.
    """
    began, shape = time.monotonic(), dataset.image_shape
    sizes = defect_sizes(*shape[1:])
    if not sizes:
        raise DatasetUnfit(f"expected images of at least 4 pixels on each side for defects, got {shape[1]}x{shape[2]}")
    plan = hashlib.sha256(f"{dataset.digest}{parameters.model_dump_json()}".encode()).hexdigest()
    folder /= plan[:16]
    chosen = replace(choose_images(dataset, parameters.alpha, parameters.seed), digest=plan)
    images, notes = dict.fromkeys(FAMILIES, chosen), list[str]()
    if max(shape[1:]) > MAX_SIDE:
        smaller = _smaller(shape)
        images["pixels"] = images["hybrid"] = _resized(chosen, smaller)
        notes.append(
            f"flows over pixels take the images at {smaller.height}x{smaller.width}, at most {MAX_SIDE} pixels a side; "
            "sizes of defects are those in the images of the dataset"
        )
    progress = _ComparisonProgress(observe, should_stop, parameters.minutes)
    scorers, results = dict[FamilyName, Scorer](), dict[FamilyName, FamilyResult]()

    def leave_out(family: FamilyName, reason: str) -> None:
        results[family] = FamilyResult(family=family, preset=PRESET_OF[family], unavailable=reason)
        observe({"event": "log", "message": f"without {family}: {reason}"})

    for family, share in TIME_SHARES.items():
        progress.begin(f"{family}: fit to {len(chosen.train)} images", share)
        try:
            artifact = train(
                images[family],
                PRESET_OF[family],
                find_preset(PRESET_OF[family]).config(_settings(family, parameters)),
                folder / family,
                observe=progress.of_training,
                should_stop=should_stop,
                threads=threads,
                engine=options,
                job=job,
            )
            scorers[family] = load_model(artifact, None, options)
        except UNAVAILABLE as error:
            leave_out(family, error.detail)
        progress.save()
    # The same rate for all.
    alpha = max([parameters.alpha, *(scorer.calibration.smallest_p for scorer in scorers.values())])
    wanted = LimitParameters(
        alpha=alpha, images=MOST[-1], shapes=parameters.shapes, contrasts=parameters.contrasts, seed=parameters.seed
    )
    for family, scorer in scorers.items():
        progress.begin(f"{family}: detection limits", (1 - sum(TIME_SHARES.values())) / len(scorers))
        try:
            limit = measure_limits(
                scorer,
                GoodImages(dataset.name, "train part", stacked(images[family].test)),
                wanted,
                progress=progress.of_limits,
                folder=folder / family / "cells",
                finished=progress.save,
                job=job,
            )
        except UNAVAILABLE as error:
            leave_out(family, error.detail)
        else:
            results[family] = _result(family, scorer, limit, shape, sizes)
            notes += [f"{family}: {check.sentence}" for check in scorer.manifest.unfit]
    progress.begin("proposal", 0.0)
    if all(result.unavailable for result in results.values()):
        reasons = dict.fromkeys(str(result.unavailable) for result in results.values())
        raise DatasetUnfit(f"no family can be compared: {'; '.join(reasons)}")
    ranks = min(scorer.calibration.images for scorer in scorers.values())
    if alpha > parameters.alpha:
        notes.append(f"{unattainable(parameters.alpha, ranks)}: alpha is {alpha:.4g} here")
    families = tuple(results[family] for family in FAMILIES)
    proposal, why = propose(families, sizes)
    size = {} if proposal is None or images[proposal] is chosen else {"image_size": images[proposal].image_shape[1:]}
    return RecommendationRecord(
        created=datetime.now(UTC).replace(microsecond=0),
        job=job,
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        image_shape=shape,
        minutes=parameters.minutes,
        seconds=time.monotonic() - began,
        seed=parameters.seed,
        alpha=alpha,
        smallest_p=max(scorer.calibration.smallest_p for scorer in scorers.values()),
        images=ComparedImages(
            fit=len(chosen.train),
            statistics=len(chosen.statistics),
            ranks=len(chosen.calibration),
            good=len(chosen.test),
        ),
        shapes=parameters.shapes,
        contrasts=parameters.contrasts,
        sizes=sizes,
        families=families,
        proposal=proposal,
        preset=None if proposal is None else PRESET_OF[proposal],
        parameters=parameters.image_settings | size,
        reasons=why,
        not_covered=NOT_COVERED,
        notes=tuple(notes),
    )


def choose_images(dataset: Dataset, alpha: float, seed: int) -> Dataset:
    """Divide images of the train part; its test part are those that get defects. Raise ``DatasetUnfit`` for too few.

    Where the ranks would be too few for ``alpha``, statistics and ranks are one part in folds.
    """
    images, total = stacked(dataset.train), len(dataset.train)
    check_train_images(dataset.name, total)
    blocks = np.array_split(np.arange(total), min(BLOCKS, total))
    rows = np.concatenate([blocks[block] for block in np.random.default_rng(seed).permutation(len(blocks))])
    good = max(MIN_LIMIT_IMAGES, round(SHARES[-1] * total))
    ends = np.cumsum([round(share / sum(SHARES[:3]) * (total - good)) for share in SHARES[:2]])
    dealt = np.split(rows, [*ends, total - good])
    fit, statistics, ranks, test = (
        images[np.sort(part)[evenly_spaced(len(part), most)]] for part, most in zip(dealt, MOST, strict=True)
    )
    folds = None
    if (len(ranks) + 1) * alpha < 1:
        statistics, ranks = np.concatenate([statistics, ranks]), ranks[:0]
        folds = (np.arange(len(statistics)) * FOLDS // len(statistics)).astype(np.int8)
    return Dataset(dataset.name, fit, statistics, ranks, test, dataset.digest, folds=folds)


def _smaller(shape: tuple[int, int, int]) -> Preprocessing:
    """Return what makes images small enough for a flow over pixels, as a training with this size does it."""
    channels, *sides = shape
    factor = MAX_SIDE / max(sides) / SIDE_STEP
    height, width = (max(MIN_SIDE, round(side * factor) * SIDE_STEP) for side in sides)
    return Preprocessing(channels, height, width, fit="crop")


def _resized(dataset: Dataset, smaller: Preprocessing) -> Dataset:
    def resized(images: Images) -> Images:
        none = np.empty((0, *smaller.shape), np.uint8)
        return np.concatenate([none, *(conform_pixels(image, smaller).pixels[None] for image in images)])

    parts = (dataset.train, dataset.statistics, dataset.calibration, dataset.test)
    fit, statistics, ranks, good = map(resized, parts)
    return replace(dataset, train=fit, statistics=statistics, calibration=ranks, test=good)


def _settings(family: FamilyName, parameters: RecommendParameters) -> dict[str, Any]:
    of_features = {"backbone": parameters.backbone, "feature_side": parameters.feature_side}
    if family == "features":
        return of_features
    of_pixels = {"max_minutes": TIME_SHARES[family] * parameters.minutes, "seed": parameters.seed}
    return of_pixels if family == "pixels" else of_pixels | of_features


def _result(
    family: FamilyName, scorer: Scorer, limit: LimitRecord, shape: tuple[int, int, int], sizes: tuple[int, ...]
) -> FamilyResult:
    """Return likelihood, limits and cost of a family, with defects measured in pixels of images of ``shape``."""
    training, fitness = scorer.manifest.training, scorer.manifest.fitness
    check = next(check for check in fitness.checks if check.measure in ("pixels", "features")) if fitness else None
    sign = -1 if family == "features" else 1  # of features the log-likelihood is checked
    scale = min(shape[1:]) / min(limit.image_shape[1:])
    curves = tuple(_scaled(curve, scale) for curve in limit.curves)
    rank = mean_rank(curves, sizes) if curves else None
    scored = limit.undamaged.images + sum(cell.images for curve in curves for cell in curve.cells)
    return FamilyResult(
        family=family,
        preset=PRESET_OF[family],
        held_out=None if check is None or check.found is None else sign * check.found,
        baseline=None if check is None else sign * check.limit,
        unit="nats/value" if family == "features" else "bits/dim",
        image_shape=limit.image_shape,
        undamaged=limit.undamaged,
        not_determinable=limit.not_determinable,
        curves=curves,
        mean_rank=rank,
        typical_limit=None if rank is None else typical_limit(rank, sizes),
        fit_seconds=training.seconds,
        seconds_per_1000=1000 * limit.seconds / scored,
        steps=None if family == "features" else training.steps,
    )


def _scaled(curve: LimitCurve, scale: float) -> LimitCurve:
    cells = tuple(cell.model_copy(update={"size": round(scale * cell.size)}) for cell in curve.cells)
    limit = None if curve.limit is None else round(scale * curve.limit)
    return curve.model_copy(update={"cells": cells, "limit": limit})


class _ComparisonProgress:
    """Progress of all trainings and limits as one."""

    def __init__(self, observe: Observer, should_stop: Callable[[], bool], minutes: float) -> None:
        self._observe, self._should_stop, self._minutes = observe, should_stop, minutes
        self._before = self._share = self._highest = 0.0
        self._reported = 0.0

    def begin(self, message: str, share: float) -> None:
        self._before += self._share
        self._share, self._reported = share, 0.0
        self._stop_if_asked()
        self._observe({"event": "log", "message": message})
        self._report(0.0)

    def of_training(self, event: dict[str, Any]) -> None:
        if event["event"] == "checkpoint":
            self.save()
        elif event["event"] in ("metrics", "scoring"):
            self._report(event["progress"] if "progress" in event else event["done"] / max(event["images"], 1))
            # Between steps the training itself stops, with a checkpoint.
            if event["event"] == "scoring":
                self._stop_if_asked()

    def of_limits(self, _label: str, done: int, total: int) -> None:
        self._stop_if_asked()
        self._report(done / max(total, 1))

    def save(self) -> None:
        self._observe({"event": "checkpoint", "step": round(100 * self._highest)})

    def _stop_if_asked(self) -> None:
        if self._should_stop():
            raise Interrupted("asked to stop while comparing")

    def _report(self, fraction: float) -> None:
        self._highest = max(self._highest, min(1.0, self._before + self._share * fraction))
        if time.monotonic() - self._reported >= REPORT_S:
            self._reported = time.monotonic()
            step, left = round(100 * self._highest), 60 * self._minutes * (1 - self._highest)
            progress = {"step": step, "steps": 100, "progress": self._highest, "eta_seconds": left}
            self._observe({"event": "metrics", **progress})
