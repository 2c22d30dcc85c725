"""A loaded model: scores, verdicts and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.anomaly.calibration import Anomaly, Calibration, MapReference
from models.anomaly.calibration_file import load_later
from models.anomaly.fitting.calibrate import Progress, calibrate
from models.anomaly.fitting.reference_images import ReferenceImages
from models.anomaly.gradients.passes import GradientLooks
from models.anomaly.gradients.probe import GradientProbe, tile_of
from models.anomaly.heat_map import HeatMap, standardise
from models.anomaly.judged import Judgement, judge_scored
from models.artifacts.files import CALIBRATION, WEIGHTS
from models.artifacts.manifest import CalibrationSummary, Manifest, Precision, file_label
from models.bijections.frozen import Inverse
from models.errors import ArtifactError, NoLearnedInverse, NoPlaces, ScoreNotFinite, UninitializedModel
from models.flows.flow import Flow
from models.images.codec import Preprocessing
from models.loading import Artifact, image_digest, load_artifact
from models.registry.calibrations import ARRAYS
from models.scoring.engines import Engine, open_engine
from models.scoring.evidence import Evidence
from models.scoring.frozen import freeze
from models.scoring.likelihood import CHUNK, Likelihood, passes, score_images, score_steps
from models.scoring.options import EngineOptions
from models.scoring.sampling import sample_frozen, to_pixels
from models.scoring.whole_image import statistic_names
from models.steps import Steps, finish, step_size

STATISTIC_TOLERANCE = 0.05
"""Nats between a stored statistic T and the same on another machine, up to T = 1000 and in proportion beyond."""
PINNED_TOLERANCE = 1e-3
"""Nats up to 28x28 between a stored score and the same score on another machine; 1e-5 a dimension beyond."""

SLACK = 2.0
"""Where the precision is not float32 the tolerances grow by so many times the worst deviation that was measured."""


class Scorer:
    """A model ready to score. Not thread-safe: one thread owns it.

    ``manifest``, ``preprocessing``, ``engine_name``, ``precision`` describe it; nothing in it changes after loading.
    """

    def __init__(
        self, artifact: Artifact, summary: CalibrationSummary | None = None, options: EngineOptions | None = None
    ) -> None:
        """``summary`` is that of the artifact's calibration where it is not the manifest's.

        The precision is that of the calibration unless ``options`` name another. Raises ``EngineUnavailable``.
        """
        self.manifest: Manifest = artifact.manifest
        self.preprocessing: Preprocessing = artifact.manifest.preprocessing
        self.calibration: Calibration = artifact.calibration
        self.calibration_summary: CalibrationSummary = summary or artifact.manifest.calibration
        self.pinned = artifact.pinned
        self.frozen = freeze(artifact.flow, self.preprocessing.shape, artifact.manifest.log_dets.layers)
        options = options or EngineOptions()
        self._options = replace(options, precision=options.precision or self.calibration_summary.precision)
        self._engine: Engine = open_engine(self.frozen, self._options)
        self._flow = artifact.flow
        self._names = statistic_names(self.frozen)

    @classmethod
    def load(cls, path: Path, calibration: Path | None = None, options: EngineOptions | None = None) -> Scorer:
        """Load, verify and freeze the artifact at ``path`` and rescore its pinned image.

        ``calibration``: the folder of one that was made after the model; None: the artifact's own. Raises
        ``ArtifactError`` where a file is damaged, the calibration is not this model's, or the pinned image does not get
        its stored score and statistic again, ``EngineUnavailable`` where the engine of ``options`` cannot run here.
        """
        artifact = load_artifact(path)
        summary = None
        if calibration is not None:
            arrays, summary = load_later(calibration, artifact.manifest.log_dets.weights_sha256)
            artifact = replace(artifact, calibration=arrays)
        pinned = artifact.manifest.pinned
        if image_digest(artifact.pinned[0]) != pinned.image_sha256:
            raise ArtifactError(f"{file_label(path)}: the pinned image is not the one that the manifest names")
        try:
            scorer = cls(artifact, summary, options)
            arrays_path = path / CALIBRATION if calibration is None else calibration / ARRAYS
            scorer._check_precision(arrays_path)
            pinned_score = scorer.score(artifact.pinned[:1])[0]
        except (UninitializedModel, ScoreNotFinite) as error:
            raise ArtifactError(f"{file_label(path / WEIGHTS)} gives no score: {error}") from error
        got = pinned_score.log_likelihood
        if abs(got - pinned.log_likelihood) > scorer.tolerance:
            raise ArtifactError(
                f"{file_label(path)}: the pinned image scores {got:.6f} nats, stored are {pinned.log_likelihood:.6f}"
            )
        scorer._check_calibration(pinned_score, arrays_path)
        return scorer

    def _check_precision(self, path: Path) -> None:
        expected = self.calibration_summary.precision
        if expected != self.precision:
            raise ArtifactError(
                f"{file_label(path)} is for {expected}, the engine in use computes in {self.precision}: "
                "calibrate it for that"
            )

    def _check_calibration(self, pinned: Likelihood, path: Path) -> None:
        summary = self.calibration_summary
        try:
            got = self.anomaly(pinned).statistic
            if self.calibration.is_thorough:
                _ = self._fisher
        except (ValueError, IndexError) as error:  # arrays that do not fit each other or this flow
            raise ArtifactError(f"{file_label(path)} does not fit the model: {error}") from error
        tolerance = STATISTIC_TOLERANCE * max(1, abs(summary.pinned_statistic) / 1000)
        if summary.deviation is not None:
            tolerance += SLACK * summary.deviation.worst_statistic
        if not abs(got - summary.pinned_statistic) <= tolerance:
            raise ArtifactError(
                f"{file_label(path)}: the statistic of the pinned image is {got:.4f}, stored is "
                f"{summary.pinned_statistic:.4f}"
            )

    @property
    def engine_name(self) -> str:
        """The engine in use."""
        return self._engine.name

    @property
    def precision(self) -> Precision:
        """The arithmetic of the coupling networks."""
        return self._engine.precision

    @property
    def tile(self) -> int:
        """Images that the engine computes at once."""
        return self._engine.tile

    @property
    def at_once(self) -> int:
        """Images that pass the flow in one step of a long computation."""
        _, height, width = self.preprocessing.shape
        return step_size(height * width, self._options.threads or torch.get_num_threads())

    @property
    def _backward_at_once(self) -> int:
        _, height, width = self.preprocessing.shape
        return tile_of(height * width)

    @property
    def statistics(self) -> tuple[str, ...]:
        """The names of the whole-image statistics of its evidence, in order."""
        return self._names

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that the calibration set can give."""
        return self.calibration.smallest_p

    @property
    def default_alpha(self) -> float:
        """The false-alarm rate used when none is asked."""
        return self.calibration.default_alpha

    @property
    def has_learned_inverse(self) -> bool:
        """Whether samples can be drawn by the learned inverse."""
        return self.frozen.has_learned_inverse

    @property
    def log_det_total(self) -> float:
        """The cached sum of data-independent log-dets, in nats."""
        return sum(level.constant_log_det for level in self.frozen.levels)

    @property
    def log_det_digest(self) -> str:
        """The SHA-256 of the weights that the cached log-dets belong to."""
        return self.manifest.log_dets.weights_sha256

    @property
    def flow(self) -> Flow:
        """The flow as it was trained, in evaluation mode; whoever changes it copies it first."""
        return self._flow

    @property
    def exact_tolerance(self) -> float:
        """Nats between a score in float32 and the same in float64, or on another machine."""
        return PINNED_TOLERANCE if self.dimensions <= 784 else 1e-5 * self.dimensions

    @property
    def tolerance(self) -> float:
        """Nats between a score and the same in float64: those of float32, and what less precise arithmetic adds."""
        deviation = self.calibration_summary.deviation
        return self.exact_tolerance + (0.0 if deviation is None else SLACK * deviation.worst)

    def score(self, images: NDArray[np.uint8], draws: int = 1) -> list[Likelihood]:
        """Return the exact log-likelihood of each image, uint8 ``(N, C, H, W)``, averaged over ``draws`` draws.

        Raises ``ScoreNotFinite``.
        """
        return score_images(self._engine, self.frozen, self.log_det_digest, images, draws)

    def score_each(
        self, images: NDArray[np.uint8], draws: int = 1, *, thorough: bool = False
    ) -> list[Likelihood | ScoreNotFinite]:
        """Return what :meth:`score` does, with the error of an image without a finite likelihood in its place.

        With ``thorough`` a backward pass is made too, and verdicts take it into account. Raises ``NotThorough``.
        """
        return finish(self.score_steps(images, draws, thorough=thorough, at_once=CHUNK))

    def score_steps(
        self, images: NDArray[np.uint8], draws: int = 1, *, thorough: bool = False, at_once: int | None = None
    ) -> Steps[list[Likelihood | ScoreNotFinite]]:
        """Return what :meth:`score_each` does, in steps of ``at_once`` draws, and of a few backward passes."""
        if thorough:
            self.calibration.check_alpha(None, thorough=True)
        size = at_once or self.at_once
        found = yield from score_steps(self._engine, self.frozen, self.log_det_digest, images, draws, size)
        if not (thorough and found):
            return found
        features = []
        for start in range(0, len(images), self._backward_at_once):
            yield
            features.append(self._looks.features(images[start : start + self._backward_at_once], self._fisher))
        return self._with_gradients(found, np.concatenate(features))

    def _with_gradients(
        self, found: list[Likelihood | ScoreNotFinite], features: NDArray[np.float64]
    ) -> list[Likelihood | ScoreNotFinite]:
        def add(one: Likelihood | ScoreNotFinite, row: NDArray[np.float64]) -> Likelihood | ScoreNotFinite:
            if isinstance(one, ScoreNotFinite) or one.evidence is None:
                return one
            return replace(one, evidence=replace(one.evidence, gradients=row[None]))

        return [add(one, row) for one, row in zip(found, features, strict=True)]

    @cached_property
    def _looks(self) -> GradientLooks:
        return GradientLooks(GradientProbe(self._flow), self.log_det_digest)

    @cached_property
    def _fisher(self) -> list[Tensor]:
        return self._looks.split(np.zeros(0, np.float32) if (f := self.calibration.fisher) is None else f)

    def require_places(self) -> MapReference:
        """Return what heat maps are drawn against. Raises ``NoPlaces``."""
        if self.calibration.pixels is None:
            raise NoPlaces("its layers mix all pixels of the image at once, so that nothing belongs to a place")
        return self.calibration.pixels

    def heat_maps(self, images: NDArray[np.uint8], *, gradients: bool = False) -> list[HeatMap]:
        """Return where each image's log-likelihood comes from, and with ``gradients`` how it would change.

        Raises ``NoPlaces`` where every value of the flow depends on all pixels.
        """
        return finish(self.heat_map_steps(images, gradients=gradients))

    def heat_map_steps(self, images: NDArray[np.uint8], *, gradients: bool = False) -> Steps[list[HeatMap]]:
        """Return what :meth:`heat_maps` does, in steps."""
        reference = self.require_places()
        found: list[HeatMap] = []
        size = self._backward_at_once if gradients else self.at_once
        for start in range(0, len(images), size):
            if start:
                yield
            rows = images[start : start + size]
            maps = passes(self._engine, self.frozen, self.log_det_digest, rows)
            nats = np.concatenate([one.additive_map().numpy() for _, one in maps])
            z = standardise(nats, reference)
            slopes = self._looks.maps(rows) if gradients else None
            found += [HeatMap(nats[i], z[i], None if slopes is None else slopes[i]) for i in range(len(rows))]
        return found

    def judge_each(
        self,
        images: NDArray[np.uint8],
        alpha: float | Sequence[float | None] | None = None,
        draws: int = 1,
        *,
        thorough: bool = False,
        explain: bool = False,
    ) -> list[Judgement]:
        """Return the exact log-likelihood of each image and the verdict on it.

        Args:
            images: Images, uint8 ``(N, C, H, W)``.
            alpha: The false-alarm rate of the verdicts, or that of each image; None for the calibration's default.
            draws: Dequantisation draws that a log-likelihood is the mean of.
            thorough: Whether verdicts include gradient evidence, from a backward pass.
            explain: Whether to add heat maps.

        Returns:
            N results in the order of the images; an image without a finite likelihood has its error there.

        Raises:
            AlphaUnattainable: The calibration has too few images for a false-alarm rate.
            NotThorough: The calibration has no gradient evidence.
            NoPlaces: The model has no heat maps.
        """
        return finish(self.judge_steps(images, alpha, draws, thorough=thorough, explain=explain, at_once=CHUNK))

    def judge_steps(
        self,
        images: NDArray[np.uint8],
        alpha: float | Sequence[float | None] | None = None,
        draws: int = 1,
        *,
        thorough: bool = False,
        explain: bool = False,
        at_once: int | None = None,
    ) -> Steps[list[Judgement]]:
        """Return what :meth:`judge_each` returns, in steps of ``at_once`` draws."""
        scored = yield from self.score_steps(images, draws, thorough=thorough, at_once=at_once)
        maps = None
        if explain:
            yield
            maps = yield from self.heat_map_steps(images, gradients=thorough)
        alphas = alpha if isinstance(alpha, Sequence) else [alpha] * len(scored)
        return judge_scored(scored, alphas, self.anomalies, maps)

    def anomaly(self, likelihood: Likelihood, alpha: float | None = None) -> Anomaly:
        """Return the verdict on one scored image. Raises ``AlphaUnattainable``."""
        return self.anomalies([likelihood], alpha)[0]

    def anomalies(self, likelihoods: Sequence[Likelihood], alpha: float | None = None) -> list[Anomaly]:
        """Return the verdicts on scored images; many cost little more than one. Raises ``AlphaUnattainable``."""
        evidence = [one.evidence for one in likelihoods if one.evidence is not None]
        if len(evidence) < len(likelihoods):
            raise ValueError("these likelihoods do not come from this scorer: they carry no evidence")
        if not evidence:
            return []
        return self.calibration.judge(Evidence.join(evidence), self._names, self.preprocessing.shape[1:], alpha)

    def calibrate(
        self, reference: ReferenceImages, progress: Progress, precision: Precision = "float32"
    ) -> tuple[Calibration, CalibrationSummary]:
        """Return another calibration of this model, and what is to be said of it; nothing in the scorer changes.

        It is for scores in ``precision``. Raises ``ScoreNotFinite``, and what ``progress`` raises.
        """
        engine = self._engine_in(precision)
        precise = None if precision == "float32" else self._engine_in("float32")
        digest, pinned = self.log_det_digest, self.pinned[0]
        return calibrate(engine, self.frozen, digest, self._flow, reference, pinned, progress, precise)

    def _engine_in(self, precision: Precision) -> Engine:
        if precision == self.precision:
            return self._engine
        return open_engine(self.frozen, replace(self._options, precision=precision))

    def sample(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact", first: int = 0
    ) -> NDArray[np.uint8]:
        """Draw ``n`` images, uint8 ``(n, C, H, W)``, from latents of deviation ``temperature``; equal for equal seeds.

        The images are number ``first``, ``first + 1``, ... of the seed; image i depends on the seed and i alone. Raises
        ``NoLearnedInverse``.
        """
        return to_pixels(self.sample_continuous(n, temperature, seed, inverse, first))

    def sample_steps(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact"
    ) -> Steps[NDArray[np.uint8]]:
        """Return what :meth:`sample` does, in steps."""
        parts = []
        for first in range(0, n, self.at_once):
            if first:
                yield
            parts.append(self.sample(min(self.at_once, n - first), temperature, seed, inverse, first))
        return np.concatenate(parts)

    def sample_continuous(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact", first: int = 0
    ) -> NDArray[np.float64]:
        """Draw ``n`` dequantised images, float64 ``(n, C, H, W)``; what :meth:`sample` rounds down."""
        if inverse == "learned" and not self.has_learned_inverse:
            raise NoLearnedInverse("every layer of this model is inverted exactly; ask for inverse=exact")
        return sample_frozen(self._engine, self.frozen, n, temperature, seed, inverse, first)

    @property
    def dimensions(self) -> int:
        """D = C·H·W."""
        channels, height, width = self.preprocessing.shape
        return channels * height * width
