"""All anomaly scores that an evaluation compares: those of the model, their components, and baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_models.errors import ImageError
from snf_models.evaluation.baselines import LABELS, NAMES, Baselines
from snf_models.evaluation.same_size_pixels import pictures
from snf_models.scorer import Scorer
from snf_runtime.anomaly.calibration import MAX_STATISTIC, Calibration
from snf_runtime.anomaly.statistics import FEATURE_STATISTICS, EvidenceKind, Statistic
from snf_runtime.images.batch import Batch, chosen
from snf_runtime.scoring.evidence import COMPLEXITY, Evidence, regions
from snf_runtime.scoring.layout import DensityKind
from snf_runtime.scoring.likelihood import Likelihood

Array: TypeAlias = NDArray[np.float64]
Images: TypeAlias = NDArray[np.uint8]
Family = Literal["combined", "family", "whole-image", "local", "features", "baseline"]

COMBINED = "combined"
FAMILIES: dict[EvidenceKind, tuple[str, str]] = {
    "whole": ("whole-family", "family of whole-image statistics"),
    "local": ("local-family", "family of local statistics"),
    "features": ("feature-family", "family of feature statistics"),
}
"""Name and label of the score of each group of statistics."""
FEATURE_LABELS = {
    "feature-place": "most unusual place by features",
    "feature-area": "most unusual twentieth of the image by features",
    "feature-mean": "mean of the features at places",
    "feature-image": "deepest features of the image",
}


@dataclass(frozen=True)
class ScoreColumn:
    name: str
    label: str
    family: Family


@dataclass(frozen=True)
class ScoredBatch:
    """N images with finite log-likelihoods and their statistics."""

    pictures: Images  # as simple scores see them, ``(N, C, H, W)``
    likelihoods: Sequence[Likelihood]
    evidence: Evidence  # of the forward pass

    @property
    def log_likelihoods(self) -> Array:
        """In nats, ``(N,)``."""
        return np.array([likelihood.log_likelihood for likelihood in self.likelihoods])


@dataclass(frozen=True)
class ScoreGroup:
    """Scores that one function computes together, ``(N, len(columns))``; larger is more anomalous."""

    columns: tuple[ScoreColumn, ...]
    compute: Callable[[ScoredBatch], Array]


@dataclass(frozen=True)
class ImageScores:
    """All scores of the N images with a finite likelihood."""

    values: Array  # ``(N, columns)``
    log_likelihoods: Array  # nats, ``(N,)``
    p_values: Array  # of the combined score, ``(N,)``
    kept: NDArray[np.int64]  # indices in the set, ``(N,)``

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: NDArray[np.bool_]) -> ImageScores:
        return ImageScores(self.values[rows], self.log_likelihoods[rows], self.p_values[rows], self.kept[rows])

    @property
    def statistics(self) -> Array:
        """The combined score in nats, ``(N,)``, the first column."""
        return self.values[:, 0]

    @classmethod
    def join(cls, parts: Sequence[ImageScores]) -> ImageScores:
        names = ("values", "log_likelihoods", "p_values", "kept")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class ScoreSuite:
    """Function that computes all scores of a batch. Not thread-safe."""

    def __init__(self, scorer: Scorer, baselines: Baselines) -> None:
        calibration = scorer.calibration
        self._scorer = scorer
        # A new score of the service is added here as another group.
        self._groups = (
            combined(calibration),
            families(calibration),
            whole_image(calibration, scorer.density.statistics),
            local(calibration),
            features(calibration),
            trivial(baselines, scorer.density.kind),
        )

    @property
    def columns(self) -> tuple[ScoreColumn, ...]:
        """The first is the combined score."""
        return tuple(column for group in self._groups for column in group.columns)

    def __call__(self, images: Batch) -> ImageScores:
        kept, batch = scored_batch(self._scorer, images)
        if batch is None:
            return ImageScores(np.zeros((0, len(self.columns))), np.zeros(0), np.zeros(0), kept)
        values = np.concatenate([group.compute(batch) for group in self._groups], axis=1)
        values = np.nan_to_num(values, nan=MAX_STATISTIC, posinf=MAX_STATISTIC, neginf=-MAX_STATISTIC)
        return ImageScores(values, batch.log_likelihoods, self._scorer.calibration.p_values(batch.evidence), kept)


def scored_batch(scorer: Scorer, images: Batch) -> tuple[NDArray[np.int64], ScoredBatch | None]:
    """Score a batch; return the indices and results of the images that are judged, or None for no image."""
    scores = scorer.score_each(images)
    good = [(place, score) for place, score in enumerate(scores) if not isinstance(score, ImageError)]
    kept = np.array([place for place, _ in good], dtype=np.int64)
    likelihoods = [likelihood for _, likelihood in good]
    evidence = [likelihood.evidence for likelihood in likelihoods if likelihood.evidence is not None]
    if not evidence:
        return kept, None
    shown = pictures(chosen(images, kept), scorer.preprocessing.height)
    return kept, ScoredBatch(shown, likelihoods, Evidence.join(evidence))


def combined(calibration: Calibration) -> ScoreGroup:
    """Return the combined score in nats, averaged over the folds of the calibration."""
    column = ScoreColumn(COMBINED, "combined score T", "combined")
    return ScoreGroup((column,), lambda batch: calibration.typical_statistics(batch.evidence)[:, None])


def families(calibration: Calibration) -> ScoreGroup:
    """Return -ln of the p-value of each family of statistics, averaged over folds."""
    columns = tuple(ScoreColumn(*FAMILIES[kind], "family") for kind in _first(calibration).kinds)
    return ScoreGroup(columns, lambda batch: _mean([fit.group_surprises(batch.evidence) for fit in _fits(calibration)]))


def whole_image(calibration: Calibration, names: Sequence[str]) -> ScoreGroup:
    """Return |z| of each whole-image statistic, against images of the same complexity; none for features alone."""
    fits = [(fit, fit.whole) for fit in _fits(calibration) if fit.whole is not None]
    if not fits:
        return _no_scores()
    names = fits[0][0].names(names)
    common = [place for place in range(len(names)) if all(place in whole.used.tolist() for _, whole in fits)]
    labels = [*(names[place] for place in common), COMPLEXITY]
    columns = tuple(ScoreColumn(name, f"|z| of {name.replace('-', ' ')}", "whole-image") for name in labels)

    def compute(batch: ScoredBatch) -> Array:
        values = []
        for fit, whole in fits:
            used = whole.used.tolist()
            chosen = [*(used.index(place) for place in common), len(used)]
            values.append(np.abs(whole.standardised(fit.statistics(batch.evidence))[:, chosen]))
        return _mean(values)

    return ScoreGroup(columns, compute)


def local(calibration: Calibration) -> ScoreGroup:
    """Return -ln p of the most and least likely squares, rows and columns; none without spatial structure."""
    family = _first(calibration).local
    if family is None:
        return _no_scores()
    columns = []
    for shape in regions(*family.shape):
        first = shape[0]
        sides = (first.bottom - first.top, first.right - first.left)
        name = f"square-{sides[0]}" if sides[0] == sides[1] else "line"
        words = f"{sides[0]}x{sides[1]} cells" if sides[0] == sides[1] else "rows and columns of cells"
        columns += [
            ScoreColumn(f"{name}-likely", f"plainest of {words}", "local"),
            ScoreColumn(f"{name}-unlikely", f"least likely of {words}", "local"),
        ]

    def compute(batch: ScoredBatch) -> Array:
        complexity = batch.evidence.whole[:, 0]
        fits = [fit.local for fit in _fits(calibration) if fit.local is not None]
        return _mean([fit.surprises(batch.evidence.cells, complexity) for fit in fits])

    return ScoreGroup(tuple(columns), compute)


def features(calibration: Calibration) -> ScoreGroup:
    """Return -ln p of each statistic of the features, averaged over folds; none for pixels alone."""
    fits = [fit.features for fit in _fits(calibration) if fit.features is not None]
    if not fits:
        return _no_scores()
    columns = tuple(ScoreColumn(name, FEATURE_LABELS[name], "features") for name in FEATURE_STATISTICS)

    def compute(batch: ScoredBatch) -> Array:
        evidence = batch.evidence.features
        assert evidence is not None
        return _mean([fit.surprises(evidence) for fit in fits])

    return ScoreGroup(columns, compute)


def trivial(baselines: Baselines, kind: DensityKind = "density") -> ScoreGroup:
    """Return the five baselines; ``kind`` is what the log-likelihood is a density of."""
    over = " of the features" if kind == "feature_density" else ""
    labels = {name: LABELS[name].replace("log-likelihood", f"log-likelihood{over}") for name in NAMES}
    columns = tuple(ScoreColumn(name, labels[name], "baseline") for name in NAMES)
    return ScoreGroup(columns, lambda batch: baselines(batch.pictures, batch.log_likelihoods))


def _no_scores() -> ScoreGroup:
    return ScoreGroup((), lambda batch: np.zeros((len(batch.pictures), 0)))


def _fits(calibration: Calibration) -> list[Statistic]:
    return [fold.statistic for fold in calibration.folds]


def _first(calibration: Calibration) -> Statistic:
    return calibration.folds[0].statistic


def _mean(values: Sequence[Array]) -> Array:
    mean: Array = np.mean(values, axis=0)
    return mean
