"""Fit of flows over backbone features: moments in one pass, choice of grid and shrinkage, layers, and Glow steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snf_client.schemas.training import TrainingConfig
from snf_models.anomaly.reference_images import ImageRows, SelectedImages, plans_of
from snf_models.artifacts.manifest import FeatureFitRecord, FeatureStepsRecord, GridChoice
from snf_models.bijections.base import Bijection
from snf_models.bijections.local_affine import ExactLocalAffine
from snf_models.bijections.pixels import AffinePixels
from snf_models.datasets import Dataset, DatasetSummary
from snf_models.errors import TrainingDiverged
from snf_models.features.extractor import FeatureExtractor
from snf_models.features.fit import FeatureMoments, choose, fit_layer, one_gaussian
from snf_models.features.flows import LOCAL_LAYERS, FeatureFlows, build_steps, sums_of_groups
from snf_models.flows.architecture import FeatureArchitecture
from snf_models.flows.flow import Flow, Level, standard_normal_log_prob
from snf_models.pipeline.presets import whole_folds
from snf_models.training.divergence import name_the_cause
from snf_models.training.objective import SelfNormalizingObjective
from snf_models.training.optimizer import learning_rate_at
from snf_runtime.images.batch import stacked
from snf_runtime.images.preprocessing import Pixels
from snf_runtime.scoring.evidence import FeatureEvidence


class TrainingSamples:
    """Samples: each image as a whole, or all of its tiles. ``owners`` has the image of each sample."""

    def __init__(self, images: ImageRows, architecture: FeatureArchitecture) -> None:
        self.images = images
        self.plans = plans_of(images, architecture) if architecture.tiled else None
        counts = [1] * len(images) if self.plans is None else [len(plan) for plan in self.plans]
        self._firsts = [0, *accumulate(counts)]
        self.owners: NDArray[np.intp] = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self.owners)

    def __getitem__(self, rows: slice, /) -> Pixels:
        """Return samples, uint8 ``(n, C, H, W)``."""
        if self.plans is None:
            return np.ascontiguousarray(stacked(self.images[rows]))
        numbers = range(*rows.indices(len(self)))
        return np.stack([self._tile(number) for number in numbers])

    def _tile(self, number: int) -> Pixels:
        assert self.plans is not None
        owner = int(self.owners[number])
        return self.plans[owner].cut(self.images[owner : owner + 1][0], number - self._firsts[owner])


MAX_IMAGES = 4000
MAX_BYTES = 2**30
"""The largest number of images or tiles whose features are stored, and the most disk space that they take."""
STEPS_BATCH = 32  # images an optimiser step


@dataclass(frozen=True)
class StepsPlan:
    steps: int  # number of Glow steps
    updates: int  # optimiser steps
    seed: int
    folder: Path  # for a temporary file with features


@dataclass(frozen=True)
class StepsOutcome:
    """Trained Glow steps with their gain on held-out images."""

    architecture: FeatureArchitecture  # with the steps
    steps: tuple[Bijection, ...]
    updates: int
    gains: NDArray[np.float64]  # of each held-out image in nats, ``(n,)``; of several tiles the mean of those stored

    @property
    def record(self) -> FeatureStepsRecord:
        gain = float(self.gains.mean())
        standard_error = float(self.gains.std(ddof=1) / math.sqrt(len(self.gains)))
        return FeatureStepsRecord(
            steps=self.architecture.steps,
            updates=self.updates,
            held_out_images=len(self.gains),
            gain=gain,
            standard_error=standard_error,
            kept=gain > standard_error,
        )

    def summary(self) -> str:
        record = self.record
        return (
            f"{record.steps} Glow steps over features: held-out images became likelier by {record.gain:.1f} nats "
            f"(standard error {record.standard_error:.1f}), so the steps are {'kept' if record.kept else 'left out'}"
        )


class StepsTrial:
    """Trial of Glow steps on at most 4,000 samples in a temporary file. The last fold is held out."""

    def __init__(
        self,
        plan: StepsPlan,
        architecture: FeatureArchitecture,
        folds: NDArray[np.integer],
        owners: NDArray[np.intp],
    ) -> None:
        self._plan = plan
        self._architecture = architecture.model_copy(update={"steps": plan.steps})
        size = 4 * math.prod(architecture.feature_shape)
        self._every = math.ceil(len(owners) / max(1, min(MAX_IMAGES, MAX_BYTES // size)))
        self._owners = owners[:: self._every]
        self._held_out = folds[self._owners] == folds.max()
        # It has no name, so that nothing of it is left whatever ends the process.
        self._file = TemporaryFile(dir=plan.folder)  # noqa: SIM115 - read after the last features are added

    def add(self, start: int, features: NDArray[np.float32]) -> None:
        """Store the chosen samples of a batch of features, ``(n, C, rows, columns)``, from image ``start`` on."""
        self._file.write(features[-start % self._every :: self._every].tobytes())

    def run(self, layer: ExactLocalAffine, report: Callable[[int, int], None]) -> StepsOutcome:
        """Train on features after ``layer``, fitted to all folds but the last; raise ``TrainingDiverged``."""
        self._file.flush()
        shape = len(self._held_out), *self._architecture.feature_shape
        features = np.memmap(self._file, np.float32, "r", shape=shape)
        numbers = np.arange(len(features))
        learned, held_out = numbers[~self._held_out], numbers[self._held_out]

        @torch.no_grad()
        def whitened(rows: NDArray[np.intp]) -> Tensor:
            return layer.apply_weight(torch.from_numpy(np.asarray(features[rows])) - layer.mean)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._plan.seed)
            flow = Flow(AffinePixels(), [Level(build_steps(self._architecture), squeeze=False)])
        self._train(flow, learned, whitened, report)
        batches = np.array_split(held_out, math.ceil(len(held_out) / STEPS_BATCH))
        of_samples = np.concatenate([_gains(flow, whitened(rows)) for rows in batches])
        # Tiles of an image are alike: counted as images, they would make the standard error too small.
        _, owners = np.unique(self._owners[self._held_out], return_inverse=True)
        gains = np.bincount(owners, of_samples) / np.bincount(owners)
        steps = tuple(flow.level_list()[0].bijections())
        return StepsOutcome(self._architecture, steps, self._plan.updates, gains)

    def _train(
        self,
        flow: Flow,
        rows: NDArray[np.intp],
        whitened: Callable[[NDArray[np.intp]], Tensor],
        report: Callable[[int, int], None],
    ) -> None:
        """Train a flow, without its pixel transform, on the stored samples ``rows``."""
        flow.train()
        updates = self._plan.updates
        config = TrainingConfig(max_steps=updates, warmup_steps=updates // 10, seed=self._plan.seed)
        objective = SelfNormalizingObjective(flow, self._architecture.feature_shape, config)
        optimizer = torch.optim.Adam(flow.parameters(), fused=True)
        generator = np.random.default_rng(self._plan.seed)
        for update in range(updates):
            x = whitened(generator.choice(rows, min(STEPS_BATCH, len(rows)), replace=False))
            loss = objective.loss(flow, x, x.new_zeros(len(x)), update)
            optimizer.zero_grad()
            torch.autograd.backward(loss.value)
            norm = torch.nn.utils.clip_grad_norm_(flow.parameters(), config.gradient_clip)
            if not (loss.value.isfinite() and norm.isfinite()):
                raise TrainingDiverged(f"Glow steps over features, update {update}: {name_the_cause(flow, x)}")
            optimizer.param_groups[0]["lr"] = learning_rate_at(config, update, update / updates)
            optimizer.step()
            objective.update(loss, update)
            report(update + 1, updates)
        flow.eval()


@torch.no_grad()
def _gains(flow: Flow, z: Tensor) -> NDArray[np.float64]:
    """Return how much larger each log-density is under a flow than under a standard normal, ``(N,)``."""
    gains = flow.forward_pixels(z, z.new_zeros(len(z))).log_likelihood - standard_normal_log_prob(z)
    return gains.double().numpy()


CHOICE_FOLDS = 5  # folds by which grid and shrinkage are chosen
BATCH = 32  # images whose features are computed at once
KEPT_BYTES = 2**30
"""Most bytes of features that are kept for further passes; those of 5,000 images of 224x224 take 0.6 GB."""

CHOICE, STEPS = "choice of the grid", "Glow steps"  # parts of the work that pass no images through the backbone
UNITS = {CHOICE: 0, STEPS: STEPS_BATCH}
"""Images that a step of these parts counts as in the progress of a fit; in other parts a step is an image."""

Report = Callable[[str, int, int], None]
"""A function that is called with the name of a part of the work, the steps done, and all steps of the part."""
Folds = NDArray[np.integer]
_Moments: TypeAlias = tuple[FeatureMoments, FeatureMoments]
_Layers: TypeAlias = tuple[ExactLocalAffine, ExactLocalAffine]
_Choice: TypeAlias = tuple[list[GridChoice], GridChoice]


@dataclass(frozen=True)
class FittedFeatures:
    """Flows fitted to the features of training images.

    Attributes:
        flows: A fit to all images, and one without each fold where there are folds.
        architecture: Their architecture, with the chosen grids.
        record: Every grid that was tried with its shrinkages and held-out log-likelihood, the best first; the same for
            the pooled features, which have one place and so one grid; and the Glow steps that were tried.
        one_gaussian: Held-out negative log-likelihood of one Gaussian for all places, to compare the choices with.
        unseen: For each fold, the evidence of the images outside it, each by a fit that has seen neither the image nor
            the fold; None without folds.
        steps: The Glow steps that were tried, part of ``flows`` if they are kept; None if none were tried.
    """

    flows: FeatureFlows
    architecture: FeatureArchitecture
    record: FeatureFitRecord
    one_gaussian: float
    unseen: tuple[FeatureEvidence, ...] | None
    steps: StepsOutcome | None = None


def fit_features(
    images: ImageRows,
    extractor: FeatureExtractor,
    architecture: FeatureArchitecture,
    report: Report,
    folds: Folds | None = None,
    suspect_share: float = 0.0,
    plan: StepsPlan | None = None,
) -> FittedFeatures:
    """Fit flows to the features of training images; grid and shrinkage follow from held-out images.

    The images pass through the backbone in batches. With folds or suspects up to 1 GiB of their features are kept,
    else they are computed again. For an architecture of tiles, every tile of every image is a sample; folds are of
    images, so that the tiles of an image stay together.

    Args:
        images: The training images, in an order that keeps related images together.
        extractor: The function from images to features.
        architecture: The architecture; its grids are replaced by the chosen ones.
        report: Called with the progress in images; what it raises ends the fit.
        folds: The cross-conformal fold of every image, ``(n,)``. The whole fit, choice included, is then repeated
            without each fold.
        suspect_share: Share of the images, those with the smallest log-likelihood under a first fit, that is left out
            of a second fit. A fit without a fold does not depend on that fold: its suspects are among its own images.
        plan: Glow steps to try after the fit, or None. Without effect where there are folds.
    """
    samples = TrainingSamples(images, architecture)
    # Blocks and not random folds: images that follow each other may show the same part.
    of_images = np.arange(len(images)) * CHOICE_FOLDS // len(images) if folds is None else folds
    own = of_images[samples.owners]
    count = int(own.max()) + 1
    pooled_shape = sum(extractor.pooled), 1, 1
    moments = (
        FeatureMoments(extractor.feature_shape, count),
        FeatureMoments(pooled_shape, count, extractor.pooled),
    )
    features = _Features(samples, extractor, report, keep=folds is not None or suspect_share > 0)
    trial = StepsTrial(plan, architecture, of_images, samples.owners) if plan is not None and folds is None else None
    for start, places, pooled in features.batches("features"):
        _add(moments, places, pooled, own[start : start + len(places)])
        if trial is not None and not suspect_share:
            trial.add(start, places)
    fits = _Fits(moments, LOCAL_LAYERS[architecture.linear])
    everything = list(range(count))
    without = [[other for other in everything if other != fold] for fold in everything] if folds is not None else []
    chosen: list[_Choice] = []
    layers: list[_Layers] = []
    pairs: dict[tuple[int, int], _Layers] = {}
    for number, kept in enumerate([everything, *without]):
        report(CHOICE, number, 1 + len(without))
        fit, choice = fits, fits.choose(kept)
        if suspect_share:
            inside = np.isin(of_images, kept)
            suspects = _suspects(features, fits.layers(kept, *choice), inside, suspect_share, f"suspects {number}")
            if folds is None:
                usual = SelectedImages([images], np.setdiff1d(np.arange(len(images)), suspects))
                return fit_features(usual, extractor, architecture, report, plan=plan)
            fit = fits.without(features, np.flatnonzero(np.isin(samples.owners, suspects)), own)
            choice = fit.choose(kept)
        chosen.append(choice)
        layers.append(fit.layers(kept, *choice))
        for other in kept if number else ():
            pairs[number - 1, other] = fit.layers([fold for fold in kept if fold != other], *choice)
    report(CHOICE, 1 + len(without), 1 + len(without))
    steps = None
    if trial is not None:
        without_last, _ = fits.layers(everything[:-1], *chosen[0])
        steps = trial.run(without_last, partial(report, STEPS))
    kept_steps = steps if steps is not None and steps.record.kept else None
    flows = FeatureFlows(
        [places for places, _ in layers],
        [pooled for _, pooled in layers],
        kept_steps.steps if kept_steps is not None else (),
        extractor.pooled,
    )
    described = kept_steps.architecture if kept_steps is not None else architecture
    grids, pooled_grid = chosen[0]
    record = FeatureFitRecord(
        backbone=architecture.backbone,
        grids=tuple(grids),
        pooled=pooled_grid,
        fits=len(layers),
        steps=None if steps is None else steps.record,
    )
    return FittedFeatures(
        flows.eval(),
        described.model_copy(update={"grids": tuple(places.grid for places, _ in layers)}),
        record,
        one_gaussian(moments[0], everything),
        None if folds is None else _unseen(features, folds, pairs),
        steps,
    )


def passes_of_fit(dataset: Dataset, config: TrainingConfig) -> int:
    """Return the number of images that all parts process, for the progress; a step counts as its batch."""
    held_out = len(dataset.statistics) + len(dataset.calibration) + len(dataset.test)
    if folds := whole_folds(config, DatasetSummary.of(dataset)):
        # For the moments, for the suspects of every fit, for the fits without two folds, and for the calibration.
        passes = 3 + (1 + folds if config.suspect_share else 0)
        return passes * (len(dataset.train) + len(dataset.statistics) + len(dataset.calibration)) + len(dataset.test)
    updates = config.feature_updates if config.feature_steps and dataset.folds is None else 0
    # Suspects are found by a first fit, and left out of a second one.
    return (3 if config.suspect_share else 1) * len(dataset.train) + held_out + updates * STEPS_BATCH


def _suspects(
    features: _Features, layers: _Layers, inside: NDArray[np.bool_], suspect_share: float, part: str
) -> NDArray[np.intp]:
    """Return the numbers of the least likely images among ``inside``, ``(n,)``, by the mean over their tiles."""
    places, pooled = layers
    of_samples = [
        float(_energy(places, at_places).sum() + _energy(pooled, of_whole[:, None, None]).sum())
        for _, of_places, whole in features.batches(part)
        for at_places, of_whole in zip(of_places, whole, strict=True)
    ]
    owners = features.samples.owners
    # Images of many tiles must not count as less likely than others.
    energies = np.bincount(owners, of_samples) / np.bincount(owners)
    images = np.flatnonzero(inside)
    kept = len(images) - round(suspect_share * len(images))
    return images[np.argsort(energies[images], kind="stable")[kept:]]


class _Fits:
    """Fits of features at places and pooled ones to some of the folds."""

    def __init__(self, moments: _Moments, layer: Callable[..., ExactLocalAffine]) -> None:
        self._places, self._pooled = moments
        self._layer = layer

    def without(self, features: _Features, samples: NDArray[np.intp], folds: Folds) -> _Fits:
        """Return the fits to all other samples; ``folds`` has the fold of every sample."""
        moments = deepcopy((self._places, self._pooled))
        for number in samples.tolist():
            _add(moments, *features.of(number, number + 1), folds[number : number + 1], sign=-1)
        return _Fits(moments, self._layer)

    def choose(self, folds: Sequence[int]) -> _Choice:
        """Return the choices for the features at places, the best first, and the best one for the pooled features."""
        return choose(self._places, folds), choose(self._pooled, folds, "identity")[0]

    def layers(self, folds: Sequence[int], choices: Sequence[GridChoice], pooled_choice: GridChoice) -> _Layers:
        places = self._layer(self._places.shape, choices[0].grid)
        pooled = self._layer(self._pooled.shape, 1)
        fit_layer(places, self._places, folds, choices[0])
        fit_layer(pooled, self._pooled, folds, pooled_choice, "identity")
        return places.eval(), pooled.eval()


def _add(
    moments: _Moments, places: NDArray[np.float32], pooled: NDArray[np.float32], folds: Folds, sign: int = 1
) -> None:
    moments[0].add(places, folds, sign)
    moments[1].add(pooled[:, :, None, None], folds, sign)


def _unseen(
    features: _Features, folds: Folds, layers: Mapping[tuple[int, int], _Layers]
) -> tuple[FeatureEvidence, ...]:
    """Return evidence for each fold k: images of fold j are measured by ``layers[k, j]``, fitted without j and k."""
    samples, groups = features.samples, features.extractor.pooled
    count = int(folds.max()) + 1
    places: list[list[NDArray[np.floating]]] = [[] for _ in range(count)]
    pooled: list[list[NDArray[np.float64]]] = [[] for _ in range(count)]
    kind = np.float64 if samples.plans is None else np.float32
    for start, at_places, whole in features.batches("folds"):
        for row in range(len(at_places)):
            of_image = int(folds[samples.owners[start + row]])
            for fold in range(count):
                if fold != of_image:
                    over_places, over_pooled = layers[fold, of_image]
                    places[fold].append(_energy(over_places, at_places[row])[0].astype(kind))
                    pooled[fold].append(_energy(over_pooled, whole[row, :, None, None], groups)[:, 0, 0])
    plans = [
        None if samples.plans is None else tuple(samples.plans[number] for number in np.flatnonzero(folds != fold))
        for fold in range(count)
    ]
    return tuple(
        FeatureEvidence(np.stack(of_places)[:, None], np.stack(of_whole)[:, None], of_fold)
        for of_places, of_whole, of_fold in zip(places, pooled, plans, strict=True)
    )


@torch.no_grad()
def _energy(
    layer: ExactLocalAffine, features: NDArray[np.float32], groups: Sequence[int] | None = None
) -> NDArray[np.float64]:
    """Return ||z||² / 2 over groups of channels at each place of an image, ``(groups, rows, columns)``."""
    z = layer.apply_weight(torch.from_numpy(features)[None] - layer.mean)
    sums = sums_of_groups(z.double().square(), groups or z.shape[1:2])
    return 0.5 * sums[0].numpy()


class _Features:
    """Features of samples in batches. With ``keep`` they are kept for further passes, unless they are too large."""

    def __init__(self, samples: TrainingSamples, extractor: FeatureExtractor, report: Report, *, keep: bool) -> None:
        self.samples, self.extractor = samples, extractor
        self._report = report
        shapes = (extractor.feature_shape, (sum(extractor.pooled),))
        size = 4 * len(samples) * sum(map(math.prod, shapes))
        self._kept = [np.empty((len(samples), *shape), np.float32) for shape in shapes if keep and size <= KEPT_BYTES]
        self._known = 0

    def batches(self, part: str) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
        """Yield, for each batch, the number of its first sample, the features at places and the pooled features."""
        samples = self.samples
        for start in range(0, len(samples), BATCH):
            stop, images = min(start + BATCH, len(samples)), len(samples.images)
            yield start, *self.of(start, stop)
            self._report(part, int(samples.owners[stop]) if stop < len(samples) else images, images)

    def of(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if stop > self._known:
            features = self.extractor(self.samples[start:stop])
            if not self._kept:
                return features
            for kept, of_batch in zip(self._kept, features, strict=True):
                kept[start:stop] = of_batch
            self._known = stop
        places, pooled = (kept[start:stop] for kept in self._kept)
        return places, pooled
