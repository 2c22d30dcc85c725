"""Putting the report of an evaluation together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.datasets.store import DatasetStore
from models.errors import DatasetUnfit
from models.evaluation.checks import check_shape
from models.evaluation.curves import shared_edges, shares
from models.evaluation.gallery import gallery
from models.evaluation.image_sets import ImageSet, Normals
from models.evaluation.metrics import RESAMPLES
from models.evaluation.raw_scores import RawSet
from models.evaluation.schema import (
    EvaluationParameters,
    EvaluationReport,
    Histogram,
    Histograms,
    ImageCount,
    Normal,
    SetReport,
)
from models.evaluation.scores import COMBINED, ImageScores, ScoreSuite
from models.evaluation.summary import DRAWN, Thresholds, compare, curves, describe_columns
from models.scorer import Scorer
from models.scoring.likelihood import bits_per_dim

Array: TypeAlias = NDArray[np.float64]

ALPHAS = (0.01, 0.05)
"""False-alarm rates of every report."""
OTHER_WRITERS = "mnist"
THRESHOLDS, TEST = "normal-thresholds", "normal-test"
"""What the raw scores of normal images are kept under."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a model and its reference for people, the normal dataset, and against what.

    ``calibration``: the number of the one that ``scorer`` has, 0 for the model's own. ``resamples``: of each bootstrap
    interval.
    """

    scorer: Scorer
    model: str
    dataset: str
    parameters: EvaluationParameters
    data_dir: Path | None
    store: DatasetStore | None
    resamples: int = RESAMPLES
    calibration: int = 0


@dataclass(frozen=True)
class AnomalousSet:
    """An anomalous set that is told from the normal images: a ``dataset``, or None for a fault."""

    name: str
    dataset: str | None
    images: ImageSet

    @property
    def key(self) -> str:
        """What its raw scores are kept under."""
        return f"against-{self.name}" if self.dataset else f"fault-{self.name}"


@dataclass(frozen=True)
class ScoredSets:
    """What scoring gave. ``raw``: by key; ``faulty``: the places of the normal images that were damaged."""

    scores: ScoreSuite
    normals: Normals
    tasks: Sequence[AnomalousSet]
    raw: Mapping[str, RawSet]
    faulty: NDArray[np.int64]


def assemble(subject: Subject, found: ScoredSets, tell: Callable[[str], None]) -> EvaluationReport:
    """Return the report; ``tell`` is told which set is summed up, and may raise."""
    scorer, columns = subject.scorer, found.scores.columns
    alpha = subject.parameters.alpha
    alphas = sorted({*ALPHAS, *([] if alpha is None else [alpha])})
    thresholds, test = found.raw[THRESHOLDS], found.raw[TEST]
    flags = Thresholds.of(scorer.calibration.images, thresholds.scored)
    normal = test.scored
    spared = normal[~np.isin(normal.kept, found.faulty)]
    sets = []
    for task in found.tasks:
        tell(f"{task.name} (intervals)")
        own, raw = (normal if task.dataset else spared), found.raw[task.key]
        results, best, (gain, low, high) = compare(columns, flags, own, raw.scored, alphas, subject.resamples)
        sets.append(
            SetReport(
                name=task.name,
                kind="dataset" if task.dataset else "corruption",
                images=_count(subject, task.name, raw, task.dataset or subject.dataset),
                normal_images=len(own),
                results=results,
                best_baseline=best,
                auroc_over_baseline=gain,
                auroc_over_baseline_interval=(low, high),
                curves=curves(columns, own, raw.scored, DRAWN if task.dataset else (COMBINED,)),
                gallery=gallery(scorer, raw, task.images.names),
            )
        )
    mean = float(normal.log_likelihoods.mean())
    dataset = subject.dataset
    return EvaluationReport(
        created=datetime.now(UTC),
        model=subject.model,
        weights_sha256=scorer.log_det_digest,
        calibration=subject.calibration,
        calibration_dataset=scorer.calibration_summary.dataset,
        calibration_images=scorer.calibration.images,
        alphas=alphas,
        resamples=subject.resamples,
        normal=Normal(
            name=dataset,
            parts=found.normals.parts,
            fit_images=len(found.normals.fit),
            thresholds=_count(subject, "thresholds", thresholds, dataset),
            test=_count(subject, "test", test, dataset),
            gallery=gallery(scorer, test, found.normals.test.names),
            mean_log_likelihood=mean,
            bits_per_dim=bits_per_dim(mean, scorer.dimensions),
        ),
        columns=describe_columns(columns, flags, normal, alphas),
        sets=sets,
        histograms=_histograms(
            {dataset: normal, **{t.name: found.raw[t.key].scored for t in found.tasks if t.dataset}}
        ),
        notes=_notes(subject, found),
    )


def _count(subject: Subject, name: str, raw: RawSet, dataset: str) -> ImageCount:
    return ImageCount(name=name, images=raw.images, failed=raw.failed, adapted=_is_adapted(subject, dataset))


def _is_adapted(subject: Subject, dataset: str) -> bool:
    try:
        check_shape(dataset, subject.scorer.preprocessing, subject.data_dir, subject.store)
    except DatasetUnfit:
        return True
    return False


def _histograms(sets: Mapping[str, ImageScores]) -> list[Histograms]:
    found = []
    numbers: tuple[tuple[str, bool, Callable[[ImageScores], Array]], ...] = (
        ("combined score T, nats", True, lambda scored: scored.statistics),
        ("log-likelihood, nats", False, lambda scored: scored.log_likelihoods),
    )
    for label, logarithmic, number in numbers:
        values = {name: number(scored) for name, scored in sets.items()}
        edges = shared_edges(list(values.values()), logarithmic=logarithmic)
        drawn = [Histogram(set=name, shares=shares(of_set, edges)) for name, of_set in values.items()]
        found.append(Histograms(label=label, edges=[round(edge, 6) for edge in edges.tolist()], sets=drawn))
    return found


def _notes(subject: Subject, found: ScoredSets) -> list[str]:
    dataset, summary = subject.dataset, subject.scorer.calibration_summary
    notes = [
        f"{dataset}: {found.normals.parts}.",
        "The best baseline is the one that is best on the very set it is judged on, which no user could know before.",
        "The size of a PNG file depends on the zlib build that Pillow uses: that baseline differs between machines.",
    ]
    if summary.dataset != dataset:
        notes.append(
            f"The p-values of the combined score come from images of {summary.dataset}, not of {dataset}: its false "
            "alarms say whether the two are alike."
        )
    if dataset == OTHER_WRITERS:
        notes.append(
            "MNIST's test digits come from other writers than its training digits and are not exchangeable with the "
            "calibration images: false alarms outside the interval are to be expected."
        )
    if summary.folds > 1:
        notes.append(
            "The model's p-values are cross-conformal: the interval of the combined score's false alarms is rough."
        )
    if len(found.faulty):
        notes.append(
            f"Faults are put into {len(found.faulty)} of the tested images, the same ones for every grade; they are "
            "told from the other tested images."
        )
    failed = sum(raw.failed for raw in found.raw.values())
    if failed:
        notes.append(f"{failed} images have no finite likelihood and are left out.")
    names = [dataset, *subject.parameters.against]
    changed = [name for name in names if _is_adapted(subject, name)]
    if changed:
        notes.append(
            f"Images of {', '.join(changed)} were converted in size or colour, which the model by itself would refuse: "
            "what conversion leaves in an image may be what gives it away."
        )
    return notes
