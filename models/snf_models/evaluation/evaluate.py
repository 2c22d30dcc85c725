"""Evaluation of a model on normal images, anomalous datasets and simulated faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from snf_client.schemas.evaluations import EvaluationReport, Localisation
from snf_models.errors import DatasetUnfit
from snf_models.evaluation.assemble import TEST, THRESHOLDS, AnomalousSet, ScoredSets, Subject, alphas_of, assemble
from snf_models.evaluation.baselines import Baselines
from snf_models.evaluation.compared_scores import ScoreSuite, scored_batch
from snf_models.evaluation.corruptions import corruptions
from snf_models.evaluation.image_sets import ImageSet, ImageSets, Normals, evenly
from snf_models.evaluation.masks import open_masks
from snf_models.evaluation.measure_localisation import few, measure_localisation, normal_maps, pairs_of
from snf_models.evaluation.scored_sets import ScoredSet, ScoredSetCache, score_set
from snf_runtime.anomaly.calibration import attainable_alpha

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
