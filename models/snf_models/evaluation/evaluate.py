"""Evaluation of a model on normal images, anomalous datasets and simulated faults."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_client.schemas.evaluations import (
    EvaluationParameters,
    EvaluationReport,
    Example,
    Gallery,
    Histogram,
    Histograms,
    ImageCount,
    Localisation,
    Normal,
    SetReport,
    SubfolderReport,
)
from snf_models.anomaly.reference_images import evenly_spaced
from snf_models.datasets.dataset import folder_groups
from snf_models.datasets.store import DatasetStore
from snf_models.errors import DatasetUnfit
from snf_models.evaluation.checks import check_shape, open_masks
from snf_models.evaluation.image_sets import ImageSet, ImageSets, corruptions
from snf_models.evaluation.localisation import few, measure_localisation, normal_maps, pairs_of
from snf_models.evaluation.metrics import (
    DRAWN,
    Thresholds,
    compare,
    curves,
    describe_columns,
    separation,
    shared_edges,
    shares,
)
from snf_models.evaluation.scored_sets import (
    COMBINED,
    Baselines,
    Extremes,
    ImageScores,
    ScoredSet,
    ScoredSetCache,
    ScoreSuite,
    score_set,
    scored_batch,
)
from snf_models.scorer import Scorer
from snf_runtime.anomaly.calibration import attainable_alpha, from_arrays, smallest_p, to_arrays
from snf_runtime.anomaly.verdict import VerdictReason
from snf_runtime.images.preprocessing import FilePlacement, as_image
from snf_runtime.scoring.layout import DensityKind
from snf_runtime.scoring.likelihood import bits_per_dim

Array: TypeAlias = NDArray[np.float64]

ALPHAS = (0.01, 0.05)
"""False-alarm rates of every report."""
FAULTY = 500
"""Most normal images that are damaged. Every grade damages the same images, which then do not count as normal."""
GALLERY_IMAGES, FAULT_GALLERY_IMAGES = 16, 4
"""Images in the gallery at either end of a dataset, and of a set of faults."""
MAX_SIDE = 96
"""Largest side of a picture in pixels; larger images are reduced."""
MAX_SUBFOLDERS = 50
"""Most subfolders of a dataset that a report lists: more are hardly kinds of defects."""
OTHER_WRITERS = "mnist"
THRESHOLDS, TEST = "normal-thresholds", "normal-test"
"""Keys of the scores of normal images."""

Progress = Callable[[str, int, int], None]
"""A function that is called with the set in work, the images done, and all images. What it raises ends the work."""


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


def evaluate(
    subject: Subject,
    progress: Progress = lambda _set, _done, _total: None,
    folder: Path | None = None,
    finished: Callable[[str], None] = lambda _set: None,
) -> EvaluationReport:
    """Compare scores of a model and baselines. Sets that are finished in ``folder`` are not repeated."""
    return _Evaluation(subject, progress, finished).run(folder)


class _Evaluation:
    """Image sets of an evaluation, their scores, and the report on them."""

    def __init__(self, subject: Subject, progress: Progress, finished: Callable[[str], None]) -> None:
        self._subject, self._scorer, self._dataset = subject, subject.scorer, subject.dataset
        self._progress, self._finished = progress, finished
        chosen, calibration = subject.parameters, subject.scorer.calibration
        attainable_alpha(chosen.alpha, calibration.smallest_p)
        rates = {max(default, calibration.smallest_p) for default in ALPHAS}
        self._alphas = sorted(rates if chosen.alpha is None else rates | {chosen.alpha})
        used = (self._scorer.manifest.training.dataset, self._scorer.calibration_summary.dataset)
        self._datasets = ImageSets(used, self._scorer.preprocessing, chosen, subject.data_dir, subject.store)
        self._normals = self._datasets.normals(self._dataset)
        self._anomalous = [
            AnomalousSet(name, name, self._datasets.anomalous(name, self._dataset)) for name in chosen.against
        ]
        test = self._normals.test
        self._faulty = evenly_spaced(len(test), min(FAULTY, len(test) // 2) if chosen.corruptions else 0)
        if chosen.corruptions:
            table = corruptions(*self._scorer.preprocessing.shape[1:])
            self._anomalous += [AnomalousSet(str(fault), None, test.chosen(self._faulty, fault)) for fault in table]
        self._masks = [(one, chosen.masks[one.name]) for one in self._anomalous if one.dataset in chosen.masks]
        if self._masks:
            self._scorer.require_spatial()
        for one, name in self._masks:  # before the long work
            with open_masks(subject.store, name, one.images.preprocessing) as masks:
                pairs_of(one.images, masks, name)
        sets = [self._normals.fit, self._normals.thresholds, test, *(one.images for one in self._anomalous)]
        mapped = [few(test), *(one.images for one, _ in self._masks)] if self._masks else []
        self._done, self._total = 0, sum(map(len, [*sets, *mapped]))
        self._label = ""

    def run(self, folder: Path | None) -> EvaluationReport:
        scores = ScoreSuite(self._scorer, self._fit())
        cache = ScoredSetCache(folder, self._plan(scores))
        dataset, normals = self._dataset, self._normals
        raw = {
            THRESHOLDS: self._scored(cache, scores, THRESHOLDS, f"{dataset} (thresholds)", normals.thresholds, 0),
            TEST: self._scored(cache, scores, TEST, dataset, normals.test, GALLERY_IMAGES),
        }
        for one in self._anomalous:
            shown = GALLERY_IMAGES if one.dataset else FAULT_GALLERY_IMAGES
            raw[one.key] = self._scored(cache, scores, one.key, one.name, one.images, shown)
        return self._report(scores, raw, dict(self._localised(cache)))

    def _start(self, label: str) -> None:
        self._label = label
        self._advance(0)

    def _advance(self, images: int) -> None:
        self._done += images
        self._progress(self._label, self._done, self._total)

    def _plan(self, scores: ScoreSuite) -> dict[str, object]:
        """Return all inputs that the scores of an evaluation depend on, as the key of their cache."""
        parameters = self._subject.parameters
        names = dict.fromkeys([self._dataset, *parameters.against, *parameters.masks.values()])
        return {
            "weights": self._scorer.log_det_digest,
            "calibration": self._scorer.calibration_summary.model_dump(mode="json"),
            "scores": [column.name for column in scores.columns],
            "preprocessing": self._datasets.preprocessing.id,
            "images": parameters.images,
            "normal": self._dataset,
            "datasets": {name: self._datasets.stamp(name) for name in names},
            # Only where there are any, so that the scores of an evaluation of an earlier version are still used.
            **({"masks": parameters.masks, "alphas": self._alphas} if parameters.masks else {}),
        }

    def _fit(self) -> Baselines:
        self._start(f"{self._dataset} (baselines)")
        images, values = [], []
        for batch in self._normals.fit.batches():
            _, scored = scored_batch(self._scorer, batch)
            if scored is not None:
                images.append(scored.pictures)
                values.append(scored.log_likelihoods)
            self._advance(len(batch))
        if sum(map(len, images)) < 2:
            raise DatasetUnfit(f"{self._dataset}: too few images have a finite likelihood to fit baselines to")
        return Baselines.fit(np.concatenate(images), np.concatenate(values))

    def _scored(
        self, cache: ScoredSetCache, scores: ScoreSuite, key: str, label: str, images: ImageSet, shown: int
    ) -> ScoredSet:
        self._start(label)
        kept = cache.get(key)
        if kept is not None:
            self._advance(len(images))
            return from_arrays(ScoredSet, kept)
        raw = score_set(scores, images, shown, self._advance)
        if not len(raw.scored):
            raise DatasetUnfit(f"no image of {label} has a finite likelihood and a size that the calibration is for")
        cache.put(key, to_arrays(raw))
        self._finished(label)
        return raw

    def _localised(self, cache: ScoredSetCache) -> Iterator[tuple[str, Localisation]]:
        """Yield how well anomaly maps show the defects of each set with masks, after its key."""
        scorer, normal = self._scorer, None
        for one, name in self._masks:
            kept = cache.get(f"masks-{one.name}")
            if kept is not None:
                self._advance(len(one.images))
                yield one.key, Localisation.model_validate_json(bytes(kept["report"]))
                continue
            if normal is None:
                self._start(f"{self._dataset} (maps)")
                normal = normal_maps(scorer, few(self._normals.test), self._advance)
            self._start(f"{one.name} (maps)")
            with open_masks(self._subject.store, name, one.images.preprocessing) as masks:
                found = measure_localisation(scorer, normal, one.images, masks, name, self._advance, self._alphas)
            content = np.frombuffer(found.model_dump_json().encode(), dtype=np.uint8)
            cache.put(f"masks-{one.name}", {"report": content})
            self._finished(f"{one.name} (maps)")
            yield one.key, found

    def _report(
        self, scores: ScoreSuite, raw: Mapping[str, ScoredSet], localised: Mapping[str, Localisation]
    ) -> EvaluationReport:
        scorer, dataset, alphas, columns = self._scorer, self._dataset, self._alphas, scores.columns
        thresholds, test = raw[THRESHOLDS], raw[TEST]
        flags = Thresholds.of(scorer.calibration.images, thresholds.scored)
        normal = test.scored
        spared = normal[~np.isin(normal.kept, self._faulty)]
        sets = []
        for one in self._anomalous:
            self._start(f"{one.name} (intervals)")
            own, scored = (normal if one.dataset else spared), raw[one.key].scored
            results, best, gain, interval = compare(columns, flags, own, scored, alphas)
            sets.append(
                SetReport(
                    name=one.name,
                    kind="dataset" if one.dataset else "corruption",
                    images=self._count(one.name, raw[one.key], one.dataset or dataset),
                    normal_images=len(own),
                    results=results,
                    subfolders=_subfolders(flags, own, one, scored, alphas) if one.dataset else [],
                    best_baseline=best,
                    auroc_over_baseline=gain,
                    auroc_over_baseline_interval=interval,
                    curves=curves(columns, own, scored, DRAWN if one.dataset else (COMBINED,)),
                    gallery=gallery(scorer, raw[one.key], one.images),
                    localisation=localised.get(one.key),
                )
            )
        mean, kind = float(normal.log_likelihoods.mean()), scorer.density.kind
        by_name = {dataset: normal, **{one.name: raw[one.key].scored for one in self._anomalous if one.dataset}}
        return EvaluationReport(
            created=datetime.now(UTC),
            model=self._subject.model,
            weights_sha256=scorer.log_det_digest,
            kind=kind,
            calibration=self._subject.calibration,
            calibration_dataset=scorer.calibration_summary.dataset,
            calibration_images=scorer.calibration.images,
            alphas=alphas,
            normal=Normal(
                name=dataset,
                parts=self._normals.parts,
                fit_images=len(self._normals.fit),
                thresholds=self._count("thresholds", thresholds, dataset),
                test=self._count("test", test, dataset),
                gallery=gallery(scorer, test, self._normals.test),
                mean_log_likelihood=mean,
                bits_per_dim=bits_per_dim(mean, scorer.density.dimensions) if kind == "density" else None,
            ),
            columns=describe_columns(columns, flags, normal, alphas),
            sets=sets,
            histograms=_histograms(kind, by_name),
            notes=[*_alpha_notes(flags, alphas), *self._notes(raw, localised)],
        )

    def _count(self, name: str, raw: ScoredSet, dataset: str) -> ImageCount:
        return ImageCount(name=name, images=int(raw.images), failed=raw.failed, adapted=self._is_adapted(dataset))

    def _is_adapted(self, dataset: str) -> bool:
        try:
            check_shape(dataset, self._scorer.preprocessing, self._subject.data_dir, self._subject.store)
        except DatasetUnfit:
            return True
        return False

    def _notes(self, raw: Mapping[str, ScoredSet], localised: Mapping[str, Localisation]) -> list[str]:
        dataset, summary = self._dataset, self._scorer.calibration_summary
        notes = [
            f"{dataset}: {self._normals.parts}.",
            "The best baseline is chosen on the very set on which it is judged, which no user can do in advance.",
            "The size of a PNG file depends on the zlib build that Pillow uses: it differs between machines.",
        ]
        if summary.dataset != dataset:
            notes.append(
                f"The p-values of the combined score come from images of {summary.dataset}, not of {dataset}: its "
                "false alarms show whether the two are alike."
            )
        if dataset == OTHER_WRITERS:
            notes.append(
                "MNIST's test digits come from other writers than its training digits and are not exchangeable with "
                "the calibration images: false alarms outside the interval are to be expected."
            )
        if summary.folds > 1:
            notes.append(
                "The model's p-values are cross-conformal: the interval of the combined score's false alarms is rough."
            )
        if len(self._faulty):
            notes.append(
                f"Faults are put into {len(self._faulty)} of the tested images, the same images for every grade; they "
                "are compared with the other tested images."
            )
        for entry in localised.values():
            if entry.unpaired or entry.empty_masks:
                notes.append(
                    f"{entry.masks}: {entry.unpaired} images without a mask and {entry.empty_masks} with an empty one "
                    f"are left out of the figures for places{_named(entry.unpaired_names)}."
                )
            if entry.unused_masks:
                unused = f"{entry.unused_masks} masks belong to no image{_named(entry.unused_names)}"
                notes.append(f"{entry.masks}: {unused}.")
            if self._scorer.calibration.map_maxima is None:
                notes.append(
                    "The calibration is of an earlier version: calibrate the model again for rates of regions."
                )
        if failed := sum(of_set.failed for of_set in raw.values()):
            notes.append(
                f"{failed} images are not judged and are left out: they have no finite likelihood, or a size that the "
                "calibration is not for."
            )
        if changed := [name for name in (dataset, *self._subject.parameters.against) if self._is_adapted(name)]:
            notes.append(
                f"Images of {', '.join(changed)} were converted in size or colour, which the model by itself would "
                "refuse: what conversion leaves in an image may be what gives it away."
            )
        return notes


def gallery(scorer: Scorer, raw: ScoredSet, images: ImageSet) -> Gallery:
    """Return base64 PNGs of the most and least anomalous images; those of a model of tiles have no reasons."""
    return Gallery(most=_examples(scorer, raw, raw.most, images), least=_examples(scorer, raw, raw.least, images))


def _examples(scorer: Scorer, raw: ScoredSet, extremes: Extremes, images: ImageSet) -> list[Example]:
    places = extremes.places.tolist()
    if not places:
        return []
    reasons: list[VerdictReason | None] = [None] * len(places)
    if not scorer.preprocessing.tiled:
        verdicts = [
            verdict.in_file(FilePlacement.of(images.preprocessing, images.file_size(place)))
            for verdict, place in zip(scorer.verdicts(scorer.score(extremes.images)), places, strict=True)
        ]
        reasons = [verdict.reasons[0] if verdict.reasons else None for verdict in verdicts]
    names, rows = images.names, np.searchsorted(raw.scored.kept, extremes.places)
    return [
        Example(
            name=names[place],
            p_value=float(raw.scored.p_values[row]),
            statistic=float(raw.scored.statistics[row]),
            log_likelihood=float(raw.scored.log_likelihoods[row]),
            reason=reason and reason.text,
            box=reason and reason.box,
            png=_png(picture),
        )
        for picture, place, row, reason in zip(extremes.images, places, rows, reasons, strict=True)
    ]


def _png(pixels: NDArray[np.uint8]) -> str:
    image, file = as_image(pixels), io.BytesIO()
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    image.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def _subfolders(
    flags: Thresholds, normal: ImageScores, anomalous: AnomalousSet, scored: ImageScores, alphas: Sequence[float]
) -> list[SubfolderReport]:
    folders = np.array([folder or "." for folder in folder_groups(anomalous.images.names)])[scored.kept]
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


def _named(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
