"""Comparison of model families within a time budget, by detection limits on part of a dataset."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from models.anomaly.fitting.reference_pass import collect_evidence
from models.anomaly.fitting.split_or_cross_conformal import ReferenceEvidence
from models.artifacts.detection_limit import UndamagedImages
from models.datasets import Dataset, Images
from models.errors import (
    BackboneMissing,
    BackboneUnfit,
    DatasetUnfit,
    EngineUnavailable,
    ScoreNotFinite,
    SingularLayer,
    TrainingDiverged,
)
from models.flows.architecture import FeatureArchitecture, PixelArchitecture
from models.limits.cells import CellJournal
from models.limits.defects import defect_sizes
from models.limits.measure import BATCH, limit_problem
from models.limits.rule import undamaged_images
from models.recommendation.architectures import feature_architecture, pixel_architecture
from models.recommendation.budget import Budget
from models.recommendation.defect_counts import count_defects, kinds_by_importance
from models.recommendation.fit_densities import (
    FittedPart,
    PartName,
    feature_seconds,
    fitted_features,
    pixel_seconds,
    seconds_per_image,
    smaller_images,
    trained_pixels,
)
from models.recommendation.judges import PARTS_OF, FamilyJudges
from models.recommendation.record import (
    FAMILIES,
    PRESET_OF,
    FamilyName,
    FamilyResult,
    RecommendationRecord,
    RecommendParameters,
)
from models.recommendation.rule import NOT_COVERED, mean_rank, propose
from models.recommendation.subsets import Subsets, choose_subsets
from models.scoring.options import EngineOptions
from models.training.loop import Observer
from models.training.presets import find_preset
from snf_runtime.attainable import unattainable
from snf_runtime.images.preprocessing import Preprocessing

FEATURES_SHARE = 0.25
"""Largest share of the budget for the fit of features and the reference images."""
SPARE_S = 3.0
"""Seconds kept for the record."""
CELLS = "cells"
UNAVAILABLE = (
    BackboneMissing,
    BackboneUnfit,
    DatasetUnfit,
    EngineUnavailable,
    TrainingDiverged,
    SingularLayer,
    ScoreNotFinite,
)
"""Errors that leave a family out of a comparison, with their text as the reason."""

T = TypeVar("T")


def compare_families(
    dataset: Dataset,
    parameters: RecommendParameters,
    folder: Path,
    *,
    observe: Observer,
    should_stop: Callable[[], bool],
    options: EngineOptions | None = None,
    job: str | None = None,
    began: float | None = None,
) -> RecommendationRecord:
    """Propose a family; the calibration part is not used. Raises ``DatasetUnfit``, or ``Interrupted`` to be resumed."""
    comparison = _Comparison(dataset, parameters, folder, observe, should_stop, options or EngineOptions(), began)
    return comparison.run(job)


class _Comparison:
    def __init__(
        self,
        dataset: Dataset,
        parameters: RecommendParameters,
        folder: Path,
        observe: Observer,
        should_stop: Callable[[], bool],
        options: EngineOptions,
        began: float | None,
    ) -> None:
        self._dataset, self._parameters, self._folder = dataset, parameters, folder
        self._should_stop, self._options = should_stop, options
        text = f"{dataset.digest}{parameters.model_dump_json()}"
        self._digest = hashlib.sha256(text.encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        self._budget = Budget(60 * parameters.minutes - SPARE_S, self._digest, folder, observe, should_stop, began)
        self._parts: dict[PartName, FittedPart] = {}
        self._missing: dict[PartName, str] = {}

    def run(self, job: str | None) -> RecommendationRecord:
        budget, parameters = self._budget, self._parameters
        sizes = defect_sizes(*self._dataset.image_shape[1:])
        if not sizes:
            _, height, width = self._dataset.image_shape
            raise DatasetUnfit(f"expected images of at least 4 pixels on each side for defects, got {height}x{width}")
        shape = self._dataset.image_shape
        features = self._attempt("features", partial(feature_architecture, shape, parameters, self._options.backbones))
        pixels = self._attempt("pixels", partial(pixel_architecture, shape))
        subsets = self._subsets(features)
        if features is not None:
            self._keep("features", self._attempt("features", partial(self._fit_features, features, subsets)))
        if pixels is not None:
            self._keep("pixels", self._attempt("pixels", partial(self._train_pixels, *pixels, subsets)))
        if self._parts:
            budget.begin("anomaly statistics")
        evidence = self._reference_evidence(subsets)
        if not self._parts:
            raise DatasetUnfit(f"no family can be compared: {'; '.join(self._missing.values())}")
        judges = FamilyJudges.calibrate(self._parts, evidence, subsets, parameters.alpha)
        if judges.alpha > parameters.alpha:
            budget.note(f"{unattainable(parameters.alpha, subsets.ranks)}: alpha is {judges.alpha:.4g} here")
        good = subsets.good[: budget.plan.good]
        budget.begin("good images without defects")
        undamaged = self._undamaged(judges, good)
        problems = {
            family: limit_problem(self._dataset.name, counted, subsets.ranks, judges.alpha)
            for family, counted in undamaged.items()
        }
        budget.begin("defects")
        measured = count_defects(
            judges,
            [family for family, problem in problems.items() if problem is None],
            good,
            kinds_by_importance(parameters.shapes, parameters.contrasts),
            sizes,
            parameters.seed,
            budget,
            CellJournal(self._folder / CELLS, self._digest),
        )
        if measured.left_out:
            budget.note(f"not measured for lack of time: {', '.join(measured.left_out)}")
        if measured.cut_short:
            budget.note(f"smaller sizes were not tried for lack of time: {', '.join(measured.cut_short)}")
        results = []
        for family in FAMILIES:
            result = self._result(family)
            if family in undamaged:
                curves = measured.curves.get(family, ())
                result = result.model_copy(
                    update={
                        "undamaged": undamaged[family],
                        "not_determinable": problems[family],
                        "curves": curves,
                        "mean_rank": mean_rank(curves, sizes) if curves else None,
                        "seconds_per_1000": 1000 * judges.seconds_per_image(family),
                    }
                )
            results.append(result)
        proposal = propose(results, sizes)
        budget.finish()
        return RecommendationRecord(
            created=datetime.now(UTC).replace(microsecond=0),
            job=job,
            dataset=self._dataset.name,
            dataset_digest=self._dataset.digest,
            image_shape=self._dataset.image_shape,
            minutes=parameters.minutes,
            seconds=budget.spent,
            seed=parameters.seed,
            alpha=judges.alpha,
            smallest_p=1 / (subsets.ranks + 1),
            images=subsets.counts.model_copy(update={"good": len(good)}),
            shapes=parameters.shapes,
            contrasts=parameters.contrasts,
            sizes=sizes,
            families=tuple(results),
            proposal=proposal.family,
            preset=None if proposal.family is None else PRESET_OF[proposal.family],
            parameters=parameters.image_settings
            | ({"image_size": self._pixel_size} if proposal.family == "pixels" and self._pixel_size else {}),
            reasons=proposal.reasons,
            not_covered=NOT_COVERED,
            notes=tuple(budget.plan.notes),
        )

    @property
    def _pixel_size(self) -> int | list[int] | None:
        """The parameter ``image_size`` of the pixel flow if it takes smaller images; None otherwise."""
        pixels = self._parts.get("pixels")
        if pixels is None or pixels.preprocessing is None:
            return None
        width, height = pixels.preprocessing.size
        return width if width == height else [height, width]

    def _attempt(self, part: PartName, work: Callable[[], T]) -> T | None:
        """Return what ``work`` returns, or note why the part cannot be had here and return None."""
        try:
            return work()
        except UNAVAILABLE as error:
            self._missing[part] = error.detail
            self._budget.begin(f"without {part}: {error.detail}")
            return None

    def _keep(self, part: PartName, fitted: FittedPart | None) -> None:
        if fitted is not None:
            self._parts[part] = fitted

    def _reference_evidence(self, subsets: Subsets) -> dict[PartName, ReferenceEvidence]:
        """Return the evidence of the reference images; a density that overflows on them is left out."""
        evidence: dict[PartName, ReferenceEvidence] = {}
        for name, part in list(self._parts.items()):
            collected = self._attempt(
                name,
                partial(
                    collect_evidence,
                    part.density,
                    part.prepared(subsets.reference),
                    lambda _done: self._budget.tick(),
                ),
            )
            if collected is None:
                del self._parts[name]
            else:
                evidence[name] = collected
        return evidence

    def _subsets(self, features: FeatureArchitecture | None) -> Subsets:
        """Return the images, fewer of them where the backbone would take more than its share of the budget."""
        plan, parameters = self._budget.plan, self._parameters
        if plan.share is None:
            plan.share = 1.0
            if features is not None:
                whole = choose_subsets(self._dataset, parameters.alpha, parameters.seed)
                images = len(whole.fit) + len(whole.reference)
                expected = images * feature_seconds(whole.fit, features, self._options)
                plan.share = min(1.0, FEATURES_SHARE * self._budget.seconds / expected)
        subsets = choose_subsets(self._dataset, parameters.alpha, parameters.seed, plan.share)
        if plan.share < 1:
            self._budget.note(f"features are fitted to {len(subsets.fit)} images for lack of time")
        self._budget.save()
        return subsets

    def _fit_features(self, architecture: FeatureArchitecture, subsets: Subsets) -> FittedPart:
        self._budget.begin(f"features: fit to {len(subsets.fit)} images")
        return fitted_features(
            subsets.fit,
            architecture,
            self._options,
            self._folder / "features",
            self._digest,
            lambda _part, _done, _total: self._budget.tick(),
        )

    def _train_pixels(self, architecture: PixelArchitecture, batch_size: int, subsets: Subsets) -> FittedPart:
        plan, budget = self._budget.plan, self._budget
        smaller = None
        if architecture.image_shape != self._dataset.image_shape:
            # As a training with this image_size treats them.
            smaller = Preprocessing(*architecture.image_shape, fit="crop")
            _, height, width = architecture.image_shape
            budget.note(
                f"the pixel flow takes the images at {height}x{width}: in a comparison it is trained on at most 128 "
                "pixels a side"
            )
        dataset = Dataset(
            self._dataset.name,
            train=smaller_images(subsets.fit, smaller),
            statistics=smaller_images(subsets.reference[: subsets.statistics], smaller),
            calibration=subsets.fit[:0],
            test=subsets.fit[:0],
            digest=f"{self._digest}-{plan.share}",
        )
        if plan.pixel_seconds is None:
            budget.begin("pixels: measure the speed")
            plan.pixel_seconds, plan.good = self._plan_pixels(dataset, architecture, subsets)
        budget.save()
        budget.begin(f"pixels: training for {plan.pixel_seconds:.0f} s on {len(subsets.fit)} images")
        preset = find_preset(PRESET_OF["pixels"])
        given = {"max_minutes": plan.pixel_seconds / 60, "batch_size": batch_size, "seed": self._parameters.seed}
        fitted = trained_pixels(
            dataset,
            smaller_images(subsets.good, smaller),
            architecture,
            preset.config(given),
            self._options,
            self._folder / "pixels",
            _ignore,
            self._stop,
        )
        return replace(fitted, preprocessing=smaller)

    def _stop(self) -> bool:
        """Return whether to stop, for the training, which then writes a checkpoint; report the progress if not."""
        if self._should_stop():
            self._budget.save()
            return True
        self._budget.report()
        return False

    def _plan_pixels(self, dataset: Dataset, architecture: PixelArchitecture, subsets: Subsets) -> tuple[float, int]:
        """Return the seconds of the pixel flow's training, and the number of good images, by measured speeds."""
        per_image = pixel_seconds(dataset, architecture, self._options, self._folder / "speed")
        if "features" in self._parts:
            per_image += seconds_per_image(self._parts["features"].density, subsets.good)
        kinds = kinds_by_importance(self._parameters.shapes, self._parameters.contrasts)
        cells = len(kinds) * len(defect_sizes(*self._dataset.image_shape[1:]))
        seconds, good = self._budget.share_out(per_image, len(subsets.reference), cells, len(subsets.good))
        if good < len(subsets.good):
            self._budget.note(f"{good} of {len(subsets.good)} good images get defects for lack of time")
        return seconds, good

    def _undamaged(self, judges: FamilyJudges, good: Images) -> dict[FamilyName, UndamagedImages]:
        counts = dict.fromkeys(judges.calibrations, 0)
        for start in range(0, len(good), BATCH):
            for family, flagged in judges.flagged(good[start : start + BATCH], counts).items():
                counts[family] += flagged
            self._budget.tick()
        return {family: undamaged_images(flagged, len(good)) for family, flagged in counts.items()}

    def _result(self, family: FamilyName) -> FamilyResult:
        """Return likelihood and cost of a family without its limits, or what is missing."""
        result = FamilyResult(family=family, preset=PRESET_OF[family])
        missing = [self._missing[part] for part in PARTS_OF[family] if part in self._missing]
        if missing:
            return result.model_copy(update={"unavailable": "; ".join(missing)})
        size = self._pixel_size
        if family == "hybrid" and size:
            why = (
                "a hybrid model takes pixels and features of one size; to compare all at that of the pixel flow: "
                f"snf recommend {self._dataset.name} --set {shlex.quote(f'image_size={json.dumps(size)}')}"
            )
            return result.model_copy(update={"unavailable": why})
        parts = [self._parts[part] for part in PARTS_OF[family]]
        first = parts[0]
        return result.model_copy(
            update={
                "held_out": first.held_out,
                "baseline": first.baseline,
                "unit": "nats/value" if family == "features" else "bits/dim",
                "fit_seconds": sum(part.seconds for part in parts),
                "steps": first.steps,
            }
        )


def _ignore(_event: dict[str, Any]) -> None:
    """Drop an event of the training, whose progress is that of a part of the comparison."""
