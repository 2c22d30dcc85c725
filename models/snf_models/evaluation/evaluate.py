"""Evaluation of a model on normal images, anomalous datasets and simulated faults."""

from __future__ import annotations

import base64
import io
import posixpath
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
from snf_models.datasets.store import DatasetStore
from snf_models.errors import DatasetUnfit
from snf_models.evaluation.checks import check_shape, open_masks
from snf_models.evaluation.image_sets import ImageSet, ImageSets, Normals, corruptions, evenly
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
from snf_runtime.anomaly.calibration import attainable_alpha, smallest_p
from snf_runtime.images.preprocessing import FilePlacement, as_image
from snf_runtime.scoring.layout import DensityKind
from snf_runtime.scoring.likelihood import bits_per_dim

MAX_SIDE = 96
"""Largest side of a picture in pixels; larger images are reduced."""


def gallery(scorer: Scorer, raw: ScoredSet, images: ImageSet) -> Gallery:
    """Return base64 PNGs of the most and least anomalous images; those of a model of tiles have no reasons."""
    examples = _of_pictures if scorer.preprocessing.tiled else _examples
    return Gallery(most=examples(scorer, raw, raw.most, images), least=examples(scorer, raw, raw.least, images))


def _of_pictures(_scorer: Scorer, raw: ScoredSet, extremes: Extremes, images: ImageSet) -> list[Example]:
    names = images.names
    rows = np.searchsorted(raw.scored.kept, extremes.places)
    return [
        Example(
            name=names[place],
            p_value=float(raw.scored.p_values[row]),
            statistic=statistic,
            log_likelihood=float(raw.scored.log_likelihoods[row]),
            reason=None,
            png=_png(picture),
        )
        for picture, statistic, place, row in zip(
            extremes.images, extremes.statistics.tolist(), extremes.places.tolist(), rows, strict=True
        )
    ]


def _examples(scorer: Scorer, _raw: ScoredSet, extremes: Extremes, images: ImageSet) -> list[Example]:
    if not len(extremes.images):
        return []
    names, places = images.names, extremes.places.tolist()
    likelihoods = scorer.score(extremes.images)
    verdicts = [
        verdict.in_file(FilePlacement.of(images.preprocessing, images.file_size(place)))
        for verdict, place in zip(scorer.verdicts(likelihoods), places, strict=True)
    ]
    return [
        Example(
            name=names[place],
            p_value=verdict.p_value,
            statistic=verdict.statistic,
            log_likelihood=likelihood.log_likelihood,
            reason=verdict.reasons[0].text if verdict.reasons else None,
            box=verdict.reasons[0].box if verdict.reasons else None,
            png=_png(image),
        )
        for image, place, likelihood, verdict in zip(extremes.images, places, likelihoods, verdicts, strict=True)
    ]


def _png(pixels: NDArray[np.uint8]) -> str:
    image, file = as_image(pixels), io.BytesIO()
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    image.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


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


FAULTY = 500
"""Most normal images that are damaged. Every grade damages the same images, which then do not count as normal."""
GALLERY_IMAGES, FAULT_GALLERY_IMAGES = 16, 4
"""Images in the gallery at either end of a dataset, and of a set of faults."""

Progress = Callable[[str, int, int], None]
"""A function that is called with the set in work, the images done, and all images. What it raises ends the work."""


def no_progress(_set: str, _done: int, _total: int) -> None:
    pass


def no_finish(_set: str) -> None:
    pass


def evaluate(
    subject: Subject,
    progress: Progress = no_progress,
    folder: Path | None = None,
    finished: Callable[[str], None] = no_finish,
) -> EvaluationReport:
    """Compare scores of a model and baselines. Sets that are finished in ``folder`` are not repeated."""
    chosen, scorer = subject.parameters, subject.scorer
    attainable_alpha(chosen.alpha, scorer.calibration.smallest_p)
    used = (scorer.manifest.training.dataset, scorer.calibration_summary.dataset)
    datasets = ImageSets(used, scorer.preprocessing, chosen, subject.data_dir, subject.store)
    normals = datasets.normals(subject.dataset)
    anomalous = [AnomalousSet(name, name, datasets.anomalous(name, subject.dataset)) for name in chosen.against]
    faulty = evenly(len(normals.test), min(FAULTY, len(normals.test) // 2) if chosen.corruptions else 0)
    if chosen.corruptions:
        table = corruptions(*scorer.preprocessing.shape[1:])
        anomalous += [AnomalousSet(str(fault), None, normals.test.damaged(faulty, fault)) for fault in table]
    masked = [one for one in anomalous if one.dataset in chosen.masks]
    mapped = [few(normals.test), *(one.images for one in masked)] if masked else []
    if masked:
        scorer.require_spatial()
        for one in masked:  # before the long work
            assert one.dataset is not None
            name = chosen.masks[one.dataset]
            with open_masks(subject.store, name, one.images.preprocessing) as masks:
                pairs_of(one.images, masks, name)
    meter = _ProgressMeter(
        progress, [normals.fit, normals.thresholds, normals.test, *(one.images for one in anomalous), *mapped]
    )

    scores = ScoreSuite(scorer, _fit(subject, normals, meter))
    cache = ScoredSetCache(folder, _plan(subject, datasets, scores))
    sets: list[tuple[str, str, ImageSet, int]] = [
        (THRESHOLDS, f"{subject.dataset} (thresholds)", normals.thresholds, 0),
        (TEST, subject.dataset, normals.test, GALLERY_IMAGES),
        *(
            (one.key, one.name, one.images, GALLERY_IMAGES if one.dataset else FAULT_GALLERY_IMAGES)
            for one in anomalous
        ),
    ]
    raw: dict[str, ScoredSet] = {}
    for key, label, images, shown in sets:
        meter.start(label)
        kept = cache.get(key)
        if kept is None:
            raw[key] = score_set(scores, images, shown, meter.add)
            if not len(raw[key].scored):
                raise DatasetUnfit(
                    f"no image of {label} has a finite likelihood and a size that the calibration is for"
                )
            cache.put(key, raw[key].arrays())
            finished(label)
        else:
            raw[key] = ScoredSet.of_arrays(kept)
            meter.add(len(images))
    localised = {
        one.key: found
        for one, found in zip(masked, _localise(subject, masked, mapped, cache, meter, finished), strict=True)
    }
    return assemble(subject, ScoredSets(scores, normals, anomalous, raw, faulty, localised), meter.repeat)


def _localise(
    subject: Subject,
    masked: Sequence[AnomalousSet],
    mapped: Sequence[ImageSet],
    cache: ScoredSetCache,
    meter: _ProgressMeter,
    finished: Callable[[str], None],
) -> Iterator[Localisation]:
    """Yield how well anomaly maps show the defects of each set with masks; ``mapped`` has the normal images first."""
    scorer, normal = subject.scorer, None
    alphas = alphas_of(subject)
    for one, images in zip(masked, mapped[1:], strict=True):
        assert one.dataset is not None
        name = subject.parameters.masks[one.dataset]
        kept = cache.get(f"masks-{one.name}")
        if kept is not None:
            meter.add(len(images))
            yield Localisation.model_validate_json(bytes(kept["report"]))
            continue
        if normal is None:
            meter.start(f"{subject.dataset} (maps)")
            normal = normal_maps(scorer, mapped[0], meter.add)
        meter.start(f"{one.name} (maps)")
        with open_masks(subject.store, name, images.preprocessing) as masks:
            found = measure_localisation(scorer, normal, images, masks, name, meter.add, alphas)
        content = np.frombuffer(found.model_dump_json().encode(), dtype=np.uint8)
        cache.put(f"masks-{one.name}", {"report": content})
        finished(f"{one.name} (maps)")
        yield found


def _plan(subject: Subject, datasets: ImageSets, scores: ScoreSuite) -> dict[str, object]:
    """Return all inputs that the scores of an evaluation depend on, as the key of their cache."""
    masks = subject.parameters.masks
    names = dict.fromkeys([subject.dataset, *subject.parameters.against, *masks.values()])
    return {
        "weights": subject.scorer.log_det_digest,
        "calibration": subject.scorer.calibration_summary.model_dump(mode="json"),
        "scores": [column.name for column in scores.columns],
        "preprocessing": datasets.preprocessing.id,
        "images": subject.parameters.images,
        "normal": subject.dataset,
        "datasets": {name: datasets.stamp(name) for name in names},
        # Only where there are any, so that the scores of an evaluation of an earlier version are still used.
        **({"masks": masks, "alphas": list(alphas_of(subject))} if masks else {}),
    }


def _fit(subject: Subject, normals: Normals, meter: _ProgressMeter) -> Baselines:
    meter.start(f"{subject.dataset} (baselines)")
    images, values = [], []
    for batch in normals.fit.batches():
        _, scored = scored_batch(subject.scorer, batch)
        if scored is not None:
            images.append(scored.pictures)
            values.append(scored.log_likelihoods)
        meter.add(len(batch))
    if sum(map(len, images)) < 2:
        raise DatasetUnfit(f"{subject.dataset}: too few images have a finite likelihood to fit baselines to")
    return Baselines.fit(np.concatenate(images), np.concatenate(values))


class _ProgressMeter:
    def __init__(self, progress: Progress, sets: Sequence[ImageSet]) -> None:
        self._progress = progress
        self._total = sum(map(len, sets))
        self._done = 0
        self._label = ""

    def start(self, label: str) -> None:
        self._label = label
        self.add(0)

    def add(self, images: int) -> None:
        self._done += images
        self._progress(self._label, self._done, self._total)

    def repeat(self, label: str) -> None:
        """Report the current step, for work that scores no images."""
        self._progress(label, self._done, self._total)
