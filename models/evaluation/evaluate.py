"""Evaluating a model: normal images against anomalous sets and graded faults, every score beside the baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from models.errors import AlphaUnattainable, DatasetUnfit
from models.evaluation.assemble import TEST, THRESHOLDS, AnomalousSet, ScoredSets, Subject, assemble
from models.evaluation.baselines import Baselines
from models.evaluation.corruptions import corruptions
from models.evaluation.image_sets import ImageSet, ImageSets, Normals, evenly
from models.evaluation.raw_scores import RawScoreCache, RawSet, score_set
from models.evaluation.schema import EvaluationReport
from models.evaluation.scores import ScoreSuite, scored_batch

FAULTY = 500
"""Normal images that are damaged, at most; each grade damages the same ones, which then do not count as normal."""
GALLERY_IMAGES, FAULT_GALLERY_IMAGES = 16, 4
"""Images shown at either end of a set."""

Progress = Callable[[str, int, int], None]
"""Is told of work: what is scored, images done, images in all. What it raises ends the work."""


def no_progress(_set: str, _done: int, _total: int) -> None:
    """Tell nobody of the progress."""


def no_finish(_set: str) -> None:
    """Tell nobody of a finished set."""


def evaluate(
    subject: Subject,
    progress: Progress = no_progress,
    folder: Path | None = None,
    finished: Callable[[str], None] = no_finish,
) -> EvaluationReport:
    """Score all sets and return the report.

    ``folder`` keeps the raw scores of every finished set, and another run with the same ``folder`` goes on after them;
    ``finished`` is told of each set. Raises ``DatasetNotFound``, ``DatasetUnfit``, ``AlphaUnattainable``,
    ``GradientEvidenceUnavailable``, and what ``progress`` raises.
    """
    chosen, scorer = subject.parameters, subject.scorer
    if chosen.alpha is not None and chosen.alpha < scorer.smallest_p:
        raise AlphaUnattainable(chosen.alpha, scorer.smallest_p)
    scorer.calibration.check_alpha(None, chosen.thorough)
    used = (scorer.manifest.training.dataset, scorer.calibration_summary.dataset)
    datasets = ImageSets(used, scorer.preprocessing, chosen, subject.data_dir, subject.store)
    normals = datasets.normals(subject.dataset)
    tasks = [AnomalousSet(name, name, datasets.anomalous(name, subject.dataset)) for name in chosen.against]
    faulty = evenly(len(normals.test), min(FAULTY, len(normals.test) // 2) if chosen.corruptions else 0)
    if chosen.corruptions:
        table = corruptions(*scorer.preprocessing.shape[1:])
        tasks += [AnomalousSet(str(one), None, normals.test.damaged(faulty, one)) for one in table]
    meter = _Meter(progress, [normals.fit, normals.thresholds, normals.test, *(task.images for task in tasks)])

    scores = ScoreSuite(scorer, _fit(subject, normals, meter), chosen.thorough)
    shelf = RawScoreCache(folder, _plan(subject, datasets, scores))
    sets: list[tuple[str, str, ImageSet, int]] = [
        (THRESHOLDS, f"{subject.dataset} (thresholds)", normals.thresholds, 0),
        (TEST, subject.dataset, normals.test, GALLERY_IMAGES),
        *((one.key, one.name, one.images, GALLERY_IMAGES if one.dataset else FAULT_GALLERY_IMAGES) for one in tasks),
    ]
    raw: dict[str, RawSet] = {}
    for key, label, images, shown in sets:
        meter.begins(label)
        kept = shelf.get(key)
        if kept is None:
            raw[key] = score_set(scores, images, shown, meter.did)
            if not len(raw[key].scored):
                raise DatasetUnfit(f"no image of {label} has a finite likelihood")
            shelf.put(key, raw[key].arrays())
            finished(label)
        else:
            raw[key] = RawSet.of_arrays(kept)
            meter.did(len(images))
    return assemble(subject, ScoredSets(scores, normals, tasks, raw, faulty), meter.still)


def _plan(subject: Subject, datasets: ImageSets, scores: ScoreSuite) -> dict[str, object]:
    """Return all that raw scores depend on."""
    names = dict.fromkeys([subject.dataset, *subject.parameters.against])
    return {
        "weights": subject.scorer.log_det_digest,
        "calibration": subject.scorer.calibration_summary.model_dump(mode="json"),
        "scores": [column.name for column in scores.columns],
        "preprocessing": datasets.preprocessing.id,
        "images": subject.parameters.images,
        "normal": subject.dataset,
        "datasets": {name: datasets.stamp(name) for name in names},
    }


def _fit(subject: Subject, normals: Normals, meter: _Meter) -> Baselines:
    meter.begins(f"{subject.dataset} (baselines)")
    images, values = [], []
    for batch in normals.fit.batches():
        places, found = scored_batch(subject.scorer, batch)
        if found is not None:
            images.append(batch[places])
            values.append(found.log_likelihoods)
        meter.did(len(batch))
    if sum(map(len, images)) < 2:
        raise DatasetUnfit(f"{subject.dataset}: too few images have a finite likelihood to fit baselines to")
    return Baselines.fit(np.concatenate(images), np.concatenate(values))


class _Meter:
    """Counts images over all sets and tells how far the work is."""

    def __init__(self, progress: Progress, sets: Sequence[ImageSet]) -> None:
        self._progress = progress
        self._total = sum(map(len, sets))
        self._done = 0
        self._label = ""

    def begins(self, label: str) -> None:
        """Tell what is scored next."""
        self._label = label
        self.did(0)

    def did(self, images: int) -> None:
        """Tell of more images."""
        self._done += images
        self._progress(self._label, self._done, self._total)

    def still(self, label: str) -> None:
        """Tell that work without images goes on."""
        self._progress(label, self._done, self._total)
