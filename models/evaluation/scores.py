"""All scores of images that an evaluation compares: the combined one, what it is made of, and the baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.anomaly.calibration import MAX_STATISTIC, Calibration
from models.anomaly.statistics.combined import Statistic
from models.errors import ScoreNotFinite
from models.evaluation.baselines import LABELS, NAMES, Baselines
from models.scorer import Scorer
from models.scoring.evidence import Evidence
from models.scoring.grid import regions
from models.scoring.likelihood import Likelihood
from models.scoring.whole_image import COMPLEXITY

Array: TypeAlias = NDArray[np.float64]
Images: TypeAlias = NDArray[np.uint8]
Family = Literal["combined", "thorough", "family", "whole-image", "local", "baseline"]

COMBINED = "combined"


@dataclass(frozen=True)
class ScoreColumn:
    """One score, larger = stranger."""

    name: str
    label: str
    family: Family


@dataclass(frozen=True)
class ScoredBatch:
    """Images ``(N, C, H, W)`` that have a likelihood, and what their one pass gave.

    ``with_gradients``: the same evidence with what a backward pass adds, where one was made.
    """

    images: Images
    likelihoods: Sequence[Likelihood]
    evidence: Evidence
    with_gradients: Evidence | None = None

    @property
    def log_likelihoods(self) -> Array:
        """In nats, ``(N,)``."""
        return np.array([one.log_likelihood for one in self.likelihoods])


@dataclass(frozen=True)
class ScoreGroup:
    """ScoreSuite that are computed together: ``compute`` gives ``(N, len(columns))``."""

    columns: tuple[ScoreColumn, ...]
    compute: Callable[[ScoredBatch], Array]


@dataclass(frozen=True)
class ImageScores:
    """The scores of images.

    ``values``: ``(N, columns)``; ``log_likelihoods``: ``(N,)`` in nats; ``p_values``: ``(N,)`` of the combined score.
    Images without a finite likelihood are left out: ``kept`` are the places of the others.
    """

    values: Array
    log_likelihoods: Array
    p_values: Array
    kept: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: NDArray[np.bool_]) -> ImageScores:
        return ImageScores(self.values[rows], self.log_likelihoods[rows], self.p_values[rows], self.kept[rows])

    @property
    def statistics(self) -> Array:
        """T of each image, in nats: the first column."""
        return self.values[:, 0]

    @classmethod
    def join(cls, parts: Sequence[ImageScores]) -> ImageScores:
        """Return all parts as one."""
        names = ("values", "log_likelihoods", "p_values", "kept")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class ScoreSuite:
    """Computes all scores of images by one pass of a model, two with ``gradients``. Not thread-safe, as its scorer.

    Raises ``GradientEvidenceUnavailable`` where the calibration has no gradients.
    """

    def __init__(self, scorer: Scorer, baselines: Baselines, gradients: bool = False) -> None:
        calibration = scorer.calibration
        calibration.check_alpha(None, gradients)
        self._scorer = scorer
        self._gradients = gradients
        # Another score of the service, when it has one, is another group here.
        self._groups = (
            combined(calibration),
            *([with_gradients(calibration)] if gradients else []),
            families(calibration),
            whole_image(calibration, scorer.statistics),
            local(calibration),
            trivial(baselines),
        )

    @property
    def columns(self) -> tuple[ScoreColumn, ...]:
        """What the scores are called; the combined one is the first."""
        return tuple(column for group in self._groups for column in group.columns)

    def __call__(self, images: Images) -> ImageScores:
        """Return the scores of images ``(N, C, H, W)``."""
        kept, batch = scored_batch(self._scorer, images, self._gradients)
        if batch is None:
            return ImageScores(np.zeros((0, len(self.columns))), np.zeros(0), np.zeros(0), kept)
        values = np.concatenate([group.compute(batch) for group in self._groups], axis=1)
        values = np.nan_to_num(values, nan=MAX_STATISTIC, posinf=MAX_STATISTIC, neginf=-MAX_STATISTIC)
        return ImageScores(values, batch.log_likelihoods, self._scorer.calibration.p_values(batch.evidence), kept)


def scored_batch(
    scorer: Scorer, images: Images, gradients: bool = False
) -> tuple[NDArray[np.int64], ScoredBatch | None]:
    """Return the places of the images that have a finite likelihood, and the pass over them; None where none has."""
    found = scorer.score_each(images, gradients=gradients)
    good = [(place, one) for place, one in enumerate(found) if not isinstance(one, ScoreNotFinite)]
    kept = np.array([place for place, _ in good], dtype=np.int64)
    likelihoods = [one for _, one in good]
    evidence = [one.evidence for one in likelihoods if one.evidence is not None]
    if not evidence:
        return kept, None
    together = Evidence.join(evidence)
    plain = replace(together, gradients=None)
    return kept, ScoredBatch(images[kept], likelihoods, plain, together if gradients else None)


def combined(calibration: Calibration) -> ScoreGroup:
    """Return T, the one number that verdicts are made of."""
    column = ScoreColumn(COMBINED, "combined score T", "combined")
    return ScoreGroup((column,), lambda batch: calibration.typical_statistics(batch.evidence)[:, None])


def with_gradients(calibration: Calibration) -> ScoreGroup:
    """Return T of all families and gradients together, and the surprise of the gradients, both in nats."""
    columns = (
        ScoreColumn("thorough", "combined score with gradients", "thorough"),
        ScoreColumn("gradient-family", "family of gradients", "family"),
    )

    def compute(batch: ScoredBatch) -> Array:
        if batch.with_gradients is None:
            raise ValueError("these images were scored without a backward pass")
        evidence = batch.with_gradients
        gradients = _mean([fold.families(evidence)[:, -1] for fold in calibration.folds])
        return np.stack([calibration.typical_statistics(evidence), gradients], 1)

    return ScoreGroup(columns, compute)


def families(calibration: Calibration) -> ScoreGroup:
    """Return the surprise of each family, in nats, the mean over the folds."""
    columns = [ScoreColumn("whole-family", "family of whole-image statistics", "family")]
    if _first(calibration).local is not None:
        columns.append(ScoreColumn("local-family", "family of local statistics", "family"))
    return ScoreGroup(
        tuple(columns), lambda batch: _mean([fold.families(batch.evidence) for fold in _fits(calibration)])
    )


def whole_image(calibration: Calibration, names: Sequence[str]) -> ScoreGroup:
    """Return |z| of every statistic of the whole image given complexity, and of complexity itself.

    ``names``: of the whole-image statistics of the evidence.
    """
    fits = _fits(calibration)
    names = fits[0].names(names)
    common = [place for place in range(len(names)) if all(place in one.whole.used.tolist() for one in fits)]
    labels = [*(names[place] for place in common), COMPLEXITY]
    columns = tuple(ScoreColumn(name, f"|z| of {name.replace('-', ' ')}", "whole-image") for name in labels)

    def compute(batch: ScoredBatch) -> Array:
        found = []
        for one in fits:
            used = one.whole.used.tolist()
            chosen = [*(used.index(place) for place in common), len(used)]
            found.append(np.abs(one.whole.standardised(one.statistics(batch.evidence))[:, chosen]))
        return _mean(found)

    return ScoreGroup(columns, compute)


def local(calibration: Calibration) -> ScoreGroup:
    """Return the surprise of each local extreme, in nats; none for a flow without places."""
    family = _first(calibration).local
    if family is None:
        return ScoreGroup((), lambda batch: np.zeros((len(batch.images), 0)))
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
        fits = [one.local for one in _fits(calibration) if one.local is not None]
        return _mean([one.surprises(batch.evidence.cells, complexity) for one in fits])

    return ScoreGroup(tuple(columns), compute)


def trivial(baselines: Baselines) -> ScoreGroup:
    """Return the baselines."""
    columns = tuple(ScoreColumn(name, LABELS[name], "baseline") for name in NAMES)
    return ScoreGroup(columns, lambda batch: baselines(batch.images, batch.log_likelihoods))


def _fits(calibration: Calibration) -> list[Statistic]:
    return [fold.statistic for fold in calibration.folds]


def _first(calibration: Calibration) -> Statistic:
    return calibration.folds[0].statistic


def _mean(found: Sequence[Array]) -> Array:
    mean: Array = np.mean(found, axis=0)
    return mean
