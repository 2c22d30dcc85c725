"""Assembly of an evaluation report from the anomaly scores of all image sets."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_client.schemas.evaluations import (
    EvaluationParameters,
    EvaluationReport,
    Histogram,
    Histograms,
    ImageCount,
    Localisation,
    Normal,
    SetReport,
    SubfolderReport,
)
from snf_models.datasets.store import DatasetStore
from snf_models.errors import DatasetUnfit
from snf_models.evaluation.checks import check_shape
from snf_models.evaluation.compared_scores import COMBINED, ImageScores, ScoreSuite
from snf_models.evaluation.curves import shared_edges, shares
from snf_models.evaluation.detection_rates import DRAWN, Thresholds, compare, curves, describe_columns
from snf_models.evaluation.gallery import gallery
from snf_models.evaluation.image_sets import ImageSet, Normals
from snf_models.evaluation.metrics import separation
from snf_models.evaluation.scored_sets import ScoredSet
from snf_models.scorer import Scorer
from snf_runtime.anomaly.calibration import smallest_p
from snf_runtime.scoring.layout import DensityKind
from snf_runtime.scoring.likelihood import bits_per_dim

Array: TypeAlias = NDArray[np.float64]

ALPHAS = (0.01, 0.05)
"""False-alarm rates of every report."""
MAX_SUBFOLDERS = 50
"""Most subfolders of a dataset that a report lists: more are hardly kinds of defects."""
OTHER_WRITERS = "mnist"
THRESHOLDS, TEST = "normal-thresholds", "normal-test"
"""Keys of the scores of normal images."""


@dataclass(frozen=True)
class Subject:
    """Inputs of an evaluation."""

    scorer: Scorer
    model: str  # name and version for the report, such as ``digits:3``
    dataset: str  # of normal images
    parameters: EvaluationParameters
    data_dir: Path | None
    store: DatasetStore | None
    calibration: int = 0  # number of that of ``scorer``


@dataclass(frozen=True)
class AnomalousSet:
    """Images that a model should flag: of another dataset, or normal ones with a simulated fault."""

    name: str
    dataset: str | None  # None for normal images with a fault
    images: ImageSet

    @property
    def key(self) -> str:
        """Name of the stored scores, such as ``against-cifar10`` or ``fault-hole-8``."""
        return f"against-{self.name}" if self.dataset else f"fault-{self.name}"


@dataclass(frozen=True)
class ScoredSets:
    """Scored image sets, from which a report is computed."""

    scores: ScoreSuite
    normals: Normals
    anomalous: Sequence[AnomalousSet]
    raw: Mapping[str, ScoredSet]  # scores by the key of a set
    faulty: NDArray[np.int64]  # indices of the normal images that were damaged
    localisation: Mapping[str, Localisation]  # by the key of a set, where it has masks


def alphas_of(subject: Subject) -> list[float]:
    """Return the default rates and that of the parameters, rising; at least the smallest p-value."""
    alpha = subject.parameters.alpha
    defaults = {max(default, subject.scorer.calibration.smallest_p) for default in ALPHAS}
    return sorted({*defaults, *([] if alpha is None else [alpha])})


def assemble(subject: Subject, scored: ScoredSets, report_progress: Callable[[str], None]) -> EvaluationReport:
    """Compute a report. ``report_progress`` gets the name of each set and may raise."""
    scorer, columns = subject.scorer, scored.scores.columns
    alphas = alphas_of(subject)
    thresholds, test = scored.raw[THRESHOLDS], scored.raw[TEST]
    flags = Thresholds.of(scorer.calibration.images, thresholds.scored)
    normal = test.scored
    spared = normal[~np.isin(normal.kept, scored.faulty)]
    sets = []
    for anomalous in scored.anomalous:
        report_progress(f"{anomalous.name} (intervals)")
        own, raw = (normal if anomalous.dataset else spared), scored.raw[anomalous.key]
        results, best, (gain, low, high) = compare(columns, flags, own, raw.scored, alphas)
        sets.append(
            SetReport(
                name=anomalous.name,
                kind="dataset" if anomalous.dataset else "corruption",
                images=_count(subject, anomalous.name, raw, anomalous.dataset or subject.dataset),
                normal_images=len(own),
                results=results,
                subfolders=_subfolders(flags, own, anomalous, raw.scored, alphas) if anomalous.dataset else [],
                best_baseline=best,
                auroc_over_baseline=gain,
                auroc_over_baseline_interval=(low, high),
                curves=curves(columns, own, raw.scored, DRAWN if anomalous.dataset else (COMBINED,)),
                gallery=gallery(scorer, raw, anomalous.images),
                localisation=scored.localisation.get(anomalous.key),
            )
        )
    mean = float(normal.log_likelihoods.mean())
    dataset = subject.dataset
    return EvaluationReport(
        created=datetime.now(UTC),
        model=subject.model,
        weights_sha256=scorer.log_det_digest,
        kind=scorer.density.kind,
        calibration=subject.calibration,
        calibration_dataset=scorer.calibration_summary.dataset,
        calibration_images=scorer.calibration.images,
        alphas=alphas,
        normal=Normal(
            name=dataset,
            parts=scored.normals.parts,
            fit_images=len(scored.normals.fit),
            thresholds=_count(subject, "thresholds", thresholds, dataset),
            test=_count(subject, "test", test, dataset),
            gallery=gallery(scorer, test, scored.normals.test),
            mean_log_likelihood=mean,
            bits_per_dim=bits_per_dim(mean, scorer.density.dimensions) if scorer.density.kind == "density" else None,
        ),
        columns=describe_columns(columns, flags, normal, alphas),
        sets=sets,
        histograms=_histograms(
            scorer.density.kind,
            {dataset: normal, **{one.name: scored.raw[one.key].scored for one in scored.anomalous if one.dataset}},
        ),
        notes=[*_alpha_notes(flags, alphas), *_notes(subject, scored)],
    )


def subfolders(names: Sequence[str]) -> list[str]:
    """Return the folder of each image below the innermost common one, ``.`` for that one.

    >>> subfolders(["bad/crack/1.png", "bad/crack/old/2.png", "bad/dent/1.png", "bad/3.png"])
    ['crack', 'crack', 'dent', '.']
    """
    folders = [posixpath.dirname(name) for name in names]
    common = posixpath.commonpath(folders) if folders else ""
    return [posixpath.relpath(folder or ".", common or ".").partition("/")[0] for folder in folders]


def _subfolders(
    flags: Thresholds, normal: ImageScores, anomalous: AnomalousSet, scored: ImageScores, alphas: Sequence[float]
) -> list[SubfolderReport]:
    folders = np.array(subfolders(anomalous.images.names))[scored.kept]
    names = np.unique(folders).tolist()
    if not 1 < len(names) <= MAX_SUBFOLDERS:
        return []
    parts = {name: scored[folders == name] for name in names}
    return [
        SubfolderReport(
            name=name,
            images=len(part),
            auroc=separation(normal.values[:, 0], part.values[:, 0]).auroc,
            detected=[flags.rate(part, 0, alpha) for alpha in alphas],
        )
        for name, part in parts.items()
    ]


def _count(subject: Subject, name: str, raw: ScoredSet, dataset: str) -> ImageCount:
    return ImageCount(name=name, images=raw.images, failed=raw.failed, adapted=_is_adapted(subject, dataset))


def _is_adapted(subject: Subject, dataset: str) -> bool:
    try:
        check_shape(dataset, subject.scorer.preprocessing, subject.data_dir, subject.store)
    except DatasetUnfit:
        return True
    return False


def _histograms(kind: DensityKind, sets: Mapping[str, ImageScores]) -> list[Histograms]:
    histograms, over = [], " of the features" if kind == "feature_density" else ""
    numbers: tuple[tuple[str, bool, Callable[[ImageScores], Array]], ...] = (
        ("combined score T, nats", True, lambda scored: scored.statistics),
        (f"log-likelihood{over}, nats", False, lambda scored: scored.log_likelihoods),
    )
    for label, logarithmic, number in numbers:
        values = {name: number(scored) for name, scored in sets.items()}
        edges = shared_edges(list(values.values()), logarithmic=logarithmic)
        drawn = [Histogram(set=name, shares=shares(of_set, edges)) for name, of_set in values.items()]
        histograms.append(Histograms(label=label, edges=[round(edge, 6) for edge in edges.tolist()], sets=drawn))
    return histograms


def _alpha_notes(flags: Thresholds, alphas: Sequence[float]) -> list[str]:
    ours, single = (smallest_p(flags.images(column)) for column in (0, 1))
    notes = []
    if replaced := [f"{alpha:g}" for alpha in ALPHAS if alpha < ours]:
        notes.append(
            f"In place of alpha = {' and '.join(replaced)} stands {ours:.4g}, the smallest that {flags.images(0)} "
            "calibration images attain."
        )
    if min(alphas) < single:
        notes.append(
            f"Thresholds of single scores come from {flags.images(1)} images: in place of smaller alphas stands "
            f"{single:.4g}, the smallest that these attain."
        )
    return notes


def _notes(subject: Subject, scored: ScoredSets) -> list[str]:
    dataset, summary = subject.dataset, subject.scorer.calibration_summary
    notes = [
        f"{dataset}: {scored.normals.parts}.",
        "The best baseline is chosen on the very set on which it is judged, which no user can do in advance.",
        "The size of a PNG file depends on the zlib build that Pillow uses: that baseline differs between machines.",
    ]
    if summary.dataset != dataset:
        notes.append(
            f"The p-values of the combined score come from images of {summary.dataset}, not of {dataset}: its false "
            "alarms show whether the two are alike."
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
    if len(scored.faulty):
        notes.append(
            f"Faults are put into {len(scored.faulty)} of the tested images, the same images for every grade; they are "
            "compared with the other tested images."
        )
    for entry in scored.localisation.values():
        notes += _mask_notes(subject, entry)
    failed = sum(raw.failed for raw in scored.raw.values())
    if failed:
        notes.append(
            f"{failed} images are not judged and are left out: they have no finite likelihood, or a size that the "
            "calibration is not for."
        )
    names = [dataset, *subject.parameters.against]
    changed = [name for name in names if _is_adapted(subject, name)]
    if changed:
        notes.append(
            f"Images of {', '.join(changed)} were converted in size or colour, which the model by itself would refuse: "
            "what conversion leaves in an image may be what gives it away."
        )
    return notes


def _mask_notes(subject: Subject, entry: Localisation) -> list[str]:
    notes = []
    if entry.unpaired or entry.empty_masks:
        notes.append(
            f"{entry.masks}: {entry.unpaired} images without a mask and {entry.empty_masks} with an empty one are left "
            f"out of the figures for places{_named(entry.unpaired_names)}."
        )
    if entry.unused_masks:
        notes.append(f"{entry.masks}: {entry.unused_masks} masks belong to no image{_named(entry.unused_names)}.")
    if subject.scorer.calibration.map_maxima is None:
        notes.append("The calibration is of an earlier version: calibrate the model again for rates of regions.")
    return notes


def _named(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
