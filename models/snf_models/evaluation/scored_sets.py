"""Anomaly scores of image sets, with their most and least anomalous images, and a cache on disk."""

from __future__ import annotations

import io
import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_models.anomaly.statistic_densities import fit_gaussian
from snf_models.disk import write_atomically
from snf_models.errors import ImageError
from snf_models.evaluation.image_sets import ImageSet, pictures
from snf_models.scorer import Scorer
from snf_runtime.anomaly.calibration import MAX_STATISTIC, Calibration
from snf_runtime.anomaly.statistics import FEATURE_STATISTICS, EvidenceKind, Gaussian, Statistic
from snf_runtime.images.batch import Batch, chosen
from snf_runtime.images.codec import encode_png
from snf_runtime.scoring.evidence import COMPLEXITY, Evidence, ImageArrays, regions
from snf_runtime.scoring.layout import DensityKind

COMPONENTS = 64
MAX_PIXEL_VALUES = 4096
"""Most values of an image for principal components; a larger image is averaged over squares first."""
MIN_SPREAD = 1e-9

LABELS = {
    "log-likelihood-low": "raw log-likelihood, low = strange",
    "log-likelihood-two-sided": "raw log-likelihood, two-sided |z|",
    "png-size": "PNG size in bytes, two-sided |z| (depends on the zlib build)",
    "intensity-moments": "moments of the intensities, Mahalanobis",
    "pca-mahalanobis": "principal components of the pixels, Mahalanobis with residual",
}
"""Baselines, with their labels."""


Spread: TypeAlias = tuple[float, float]
"""Mean and deviation of a number over normal images."""


def spread(values: Array) -> Spread:
    return float(values.mean()), max(float(values.std()), MIN_SPREAD)


def two_sided(values: Array, of_normal: Spread) -> Array:
    """Return |x - m| / s of numbers, ``(N,)``."""
    return np.abs(values - of_normal[0]) / of_normal[1]


@dataclass(frozen=True)
class PrincipalComponents:
    """Mahalanobis distance of pixels: Σ (u_i' (x - μ))² / λ_i + ||r||² / σ² (Tipping & Bishop 1999)."""

    block: int  # side of the squares over which pixels are averaged first
    mean: Array  # μ, ``(D,)``
    vectors: Array  # u_i, ``(k, D)``
    variances: Array  # λ_i, ``(k,)``
    noise: float  # σ², mean variance of the residual r

    @classmethod
    def fit(cls, images: Images) -> Self:
        """Fit at most 64 components to uint8 ``(n, C, H, W)``."""
        from sklearn.decomposition import PCA  # noqa: PLC0415 - only fitting needs it, and it takes time to load

        block = 1
        while images[0].size / block**2 > MAX_PIXEL_VALUES:
            block += 1
        pixels = _blocks(images, block)
        count = max(1, min(COMPONENTS, len(images) // 4, pixels.shape[1] // 2))
        fit = PCA(count, svd_solver="randomized", random_state=0).fit(pixels)
        smallest = max(1e-6 * float(fit.explained_variance_[0]), MIN_SPREAD)
        variances = np.maximum(fit.explained_variance_, smallest)
        return cls(block, fit.mean_, fit.components_, variances, max(float(fit.noise_variance_), smallest))

    def __call__(self, images: Images) -> Array:
        """Return the distance of each image, ``(N, C, H, W)`` -> ``(N,)``."""
        centred = _blocks(images, self.block) - self.mean
        scores = centred @ self.vectors.T
        rest = np.maximum(np.square(centred).sum(1) - np.square(scores).sum(1), 0)
        distance: Array = np.sqrt((np.square(scores) / self.variances).sum(1) + rest / self.noise)
        return distance


@dataclass(frozen=True)
class Baselines:
    """Five baselines, fitted to normal images that are not used for tests or thresholds."""

    likelihood: Spread
    png: Spread
    moments: Gaussian
    components: PrincipalComponents

    @classmethod
    def fit(cls, images: Images, log_likelihoods: Array) -> Self:
        return cls(
            spread(log_likelihoods),
            spread(png_sizes(images)),
            fit_gaussian(intensity_moments(images)),
            PrincipalComponents.fit(images),
        )

    def __call__(self, images: Images, log_likelihoods: Array) -> Array:
        """Return the scores, ``(N, len(LABELS))``; larger is more anomalous."""
        moments = np.square(self.moments.components(intensity_moments(images))).sum(1)
        columns = [
            -log_likelihoods,
            two_sided(log_likelihoods, self.likelihood),
            two_sided(png_sizes(images), self.png),
            np.sqrt(moments),
            self.components(images),
        ]
        return np.stack(columns, 1)


def png_sizes(images: Images) -> Array:
    """Return the bytes of each image as PNG, ``(N,)``; they depend on Pillow's zlib."""
    return np.array([len(encode_png(image)) for image in images], dtype=np.float64)


def intensity_moments(images: Images) -> Array:
    """Return mean, deviation, skewness and excess kurtosis of each channel, ``(N, 4 C)``, all means first."""
    x = images.reshape(*images.shape[:2], -1).astype(np.float64)
    mean, deviation = x.mean(2), x.std(2)
    z = (x - mean[..., None]) / np.maximum(deviation, MIN_SPREAD)[..., None]
    flat = deviation < MIN_SPREAD
    skewness = np.where(flat, 0.0, (z**3).mean(2))
    kurtosis = np.where(flat, 0.0, (z**4).mean(2) - 3)
    return np.concatenate([mean, deviation, skewness, kurtosis], 1)


def _blocks(images: Images, block: int) -> Array:
    """Return pixels averaged over squares, ``(N, D)``, without edges that fill no square."""
    if block == 1:
        return images.reshape(len(images), -1).astype(np.float64)
    count, channels, height, width = images.shape
    rows, columns = height // block, width // block
    cut = images[:, :, : rows * block, : columns * block].reshape(count, channels, rows, block, columns, block)
    means: Array = cut.mean((3, 5), dtype=np.float64)
    return means.reshape(count, -1)


Array: TypeAlias = NDArray[np.float64]
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
    log_likelihoods: Array  # nats, ``(N,)``
    evidence: Evidence  # of the forward pass


@dataclass(frozen=True)
class ScoreGroup:
    """Scores that one function computes together, ``(N, len(columns))``; larger is more anomalous."""

    columns: tuple[ScoreColumn, ...]
    compute: Callable[[ScoredBatch], Array]


@dataclass(frozen=True)
class ImageScores(ImageArrays):
    """All scores of the N images with a finite likelihood."""

    values: Array  # ``(N, columns)``
    log_likelihoods: Array  # nats, ``(N,)``
    p_values: Array  # of the combined score, ``(N,)``
    kept: NDArray[np.int64]  # indices in the set, ``(N,)``

    def __len__(self) -> int:
        return len(self.values)

    @property
    def statistics(self) -> Array:
        """The combined score in nats, ``(N,)``, the first column."""
        return self.values[:, 0]


class ScoreSuite:
    """Function that computes all scores of a batch. Not thread-safe."""

    def __init__(self, scorer: Scorer, baselines: Baselines) -> None:
        calibration = scorer.calibration
        self._scorer = scorer
        # A new score of the service is added here as another group.
        self._groups = (
            ScoreGroup(
                (ScoreColumn(COMBINED, "combined score T", "combined"),),
                lambda batch: calibration.typical_statistics(batch.evidence)[:, None],
            ),
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
    if not good:
        return kept, None
    shown = pictures(chosen(images, kept), scorer.preprocessing.height)
    log_likelihoods = np.array([likelihood.log_likelihood for _, likelihood in good])
    return kept, ScoredBatch(shown, log_likelihoods, Evidence.join([likelihood.evidence for _, likelihood in good]))


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
    columns = tuple(
        ScoreColumn(name, label.replace("log-likelihood", f"log-likelihood{over}"), "baseline")
        for name, label in LABELS.items()
    )
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


Images: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True)
class Extremes(ImageArrays):
    """The most or least anomalous images of a set."""

    images: Images  # ``(n, C, H, W)``, small pictures for a model of tiles
    statistics: Array  # nats, ``(n,)``, the most extreme first
    places: NDArray[np.int64]  # indices in the set, ``(n,)``

    def first(self, count: int, sign: int) -> Self:
        """Keep the ``count`` images with the highest (``sign=-1``) or lowest (``sign=1``) scores."""
        return self[np.argsort(sign * self.statistics, kind="stable")[:count]]


@dataclass(frozen=True)
class ScoredSet:
    """Scores of a set. Of its images only ``most`` and ``least`` are kept."""

    images: NDArray[np.int64]  # their number, ``()``
    scored: ImageScores
    most: Extremes
    least: Extremes

    @property
    def failed(self) -> int:
        """Images that are not judged."""
        return int(self.images) - len(self.scored)


def score_set(scores: ScoreSuite, images: ImageSet, shown: int, progress: Callable[[int], None]) -> ScoredSet:
    """Score a set and keep ``shown`` images at either end; raise ``DatasetUnfit``, ``DatasetNotFound``."""
    parts, done = list[ImageScores](), 0
    ends: dict[int, list[Extremes]] = {-1: [], 1: []}
    for batch in images.batches():
        scored, shown_images = scores(batch), pictures(batch, images.preprocessing.height)
        parts.append(replace(scored, kept=scored.kept + done))
        extremes = Extremes(shown_images[scored.kept], scored.statistics, parts[-1].kept)
        ends = {sign: [Extremes.join([*kept, extremes]).first(shown, sign)] for sign, kept in ends.items()}
        done += len(batch)
        progress(len(batch))
    if not parts:
        raise ValueError("expected a set with images, got none")
    return ScoredSet(np.array(done), ImageScores.join(parts), *ends[-1], *ends[1])


log = logging.getLogger(__name__)

PLAN = "plan.json"
Arrays = Mapping[str, NDArray[Any]]


class ScoredSetCache:
    """Results of finished sets in a folder, which is emptied for another ``plan``. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None, plan: Mapping[str, Any]) -> None:
        self._folder = folder
        if folder is None:
            return
        wanted = json.dumps(plan, sort_keys=True, indent=1).encode()
        try:
            stored = (folder / PLAN).read_bytes()
        except OSError:
            stored = b""
        if stored != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            write_atomically(folder / PLAN, wanted)

    def get(self, name: str) -> Arrays | None:
        """Return the arrays of a set, or None if missing or unreadable."""
        if self._folder is None or not (path := self._folder / f"{name}.npz").is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s cannot be read and is computed again: %s", path.name, error)
            return None

    def put(self, name: str, arrays: Arrays) -> None:
        if self._folder is None:
            return
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        write_atomically(self._folder / f"{name}.npz", content.getvalue())
