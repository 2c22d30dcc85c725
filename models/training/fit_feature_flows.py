"""Fit of flows over backbone features to training images.

The fit sums moments in one pass over the images, chooses grid and shrinkage, and sets the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from models.bijections.local_affine import ExactLocalAffine
from models.datasets import Dataset
from models.features.extractor import FeatureExtractor
from models.features.fit import FitChoice, choose, fit_layer, one_gaussian
from models.features.flows import LOCAL_LAYERS, FeatureFlows, sums_of_groups
from models.features.moments import FeatureMoments
from models.flows.architecture import FeatureArchitecture
from models.training.config import TrainingConfig
from models.training.feature_fit_images import ChosenImages, TrainingImages, TrainingSamples
from models.training.feature_steps import BATCH as STEPS_BATCH
from models.training.feature_steps import StepsOutcome, StepsPlan, StepsTrial
from snf_runtime.scoring.evidence import FeatureEvidence

CHOICE_FOLDS = 5
"""Folds by which grid and shrinkage are chosen."""
BATCH = 32
"""Images whose features are in memory at once."""

CHOICE, STEPS = "choice of the grid", "Glow steps"
"""Parts of the work that pass no images through the backbone."""
UNITS = {CHOICE: 0, STEPS: STEPS_BATCH}
"""Images that a step of these parts counts as in the progress of a fit; in other parts a step is an image."""

Report = Callable[[str, int, int], None]
"""A function that is called with the name of a part of the work, the steps done, and all steps of the part."""
Folds = NDArray[np.integer]


@dataclass(frozen=True)
class FittedFeatures:
    """Flows fitted to the features of training images, with the hyperparameters chosen on held-out images.

    Attributes:
        flows: The flows: a fit to all images, and one without each fold where there are folds.
        architecture: Their architecture, with the chosen grids.
        choices: Shrinkages and held-out log-likelihood of every grid that was tried, the best first.
        pooled_choice: The same for the pooled features, which have one place and so one grid.
        one_gaussian: Held-out negative log-likelihood of one Gaussian for all places, to compare the choices with.
        unseen: For each fold, the evidence of the images outside it, each by a fit that has seen neither the image nor
            the fold; None without folds.
        steps: The Glow steps that were tried, which are part of ``flows`` if they are kept; None if none were tried.
    """

    flows: FeatureFlows
    architecture: FeatureArchitecture
    choices: tuple[FitChoice, ...]
    pooled_choice: FitChoice
    one_gaussian: float
    unseen: tuple[FeatureEvidence, ...] | None
    steps: StepsOutcome | None = None


def fit_features(
    images: TrainingImages,
    extractor: FeatureExtractor,
    architecture: FeatureArchitecture,
    report: Report,
    folds: Folds | None = None,
    suspect_share: float = 0.0,
    plan: StepsPlan | None = None,
) -> FittedFeatures:
    """Fit flows to the features that a backbone network computes from training images.

    Grid and shrinkage are chosen by the log-likelihood of held-out images.

    Memory does not grow with the number of images: they are passed through the backbone in batches, once, or more
    often with folds or suspects (:func:`passes_of_fit`). For an architecture of tiles, every tile of every image is a
    sample of the fit; folds are folds of images, so that the tiles of an image stay together.

    Args:
        images: The training images, in an order that keeps related images together.
        extractor: The function from images to features.
        architecture: The architecture; its grids are replaced by the chosen ones.
        report: Called with the progress in images; what it raises ends the fit.
        folds: The cross-conformal fold of every image, ``(n,)``. The whole fit, choice included, is then repeated
            without each fold.
        suspect_share: Share of the images, those with the smallest log-likelihood under a first fit, that is left out
            of a second fit. Without effect where there are folds: a fit must not depend on the images that it ranks.
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
    final = folds is not None or not suspect_share
    trial = (
        StepsTrial(plan, architecture, of_images, samples.owners)
        if plan is not None and folds is None and final
        else None
    )
    for start, places, pooled in _batches(samples, extractor, report, "features"):
        rows = own[start : start + len(places)]
        moments[0].add(places, rows)
        moments[1].add(pooled[:, :, None, None], rows)
        if trial is not None:
            trial.add(start, places)
    fits = _Fits(moments, LOCAL_LAYERS[architecture.linear])
    everything = list(range(count))
    without = [[other for other in everything if other != fold] for fold in everything] if folds is not None else []
    chosen = []
    for number, kept in enumerate([everything, *without]):
        report(CHOICE, number, 1 + len(without))
        chosen.append(fits.choose(kept))
    report(CHOICE, 1 + len(without), 1 + len(without))
    layers = [fits.layers(kept, *choice) for kept, choice in zip([everything, *without], chosen, strict=True)]
    if not final:
        usual = _usual(samples, extractor, *layers[0], suspect_share, report)
        return fit_features(ChosenImages(images, usual), extractor, architecture, report, plan=plan)
    steps = None
    if trial is not None:
        without_last, _ = fits.layers(everything[:-1], *chosen[0])
        steps = trial.run(without_last, partial(report, STEPS))
    kept_steps = steps if steps is not None and steps.kept else None
    flows = FeatureFlows(
        [places for places, _ in layers],
        [pooled for _, pooled in layers],
        kept_steps.steps if kept_steps is not None else (),
        extractor.pooled,
    )
    described = kept_steps.architecture if kept_steps is not None else architecture
    return FittedFeatures(
        flows.eval(),
        described.model_copy(update={"grids": tuple(places.grid for places, _ in layers)}),
        tuple(chosen[0][0]),
        chosen[0][1],
        one_gaussian(moments[0], everything),
        None if folds is None else _unseen(samples, extractor, folds, fits, chosen[1:], report),
        steps,
    )


def passes_of_fit(dataset: Dataset, config: TrainingConfig) -> int:
    """Return how many images the backbone network processes in all while a feature model is trained.

    Fit, calibration and test are included.

    An image that passes several times counts several times, and optimiser steps count as the images of their batches.
    """
    updates = config.feature_updates if config.feature_steps and dataset.folds is None else 0
    if dataset.whole_folds is None:
        held_out = len(dataset.statistics) + len(dataset.calibration) + len(dataset.test)
        # Suspects are found by a first fit, and left out of a second one.
        return (3 if config.suspect_share else 1) * len(dataset.train) + held_out + updates * STEPS_BATCH
    # For the moments, for the fits without two folds, and for the calibration.
    return 3 * len(dataset.whole_folds) + len(dataset.test)


def _usual(
    samples: TrainingSamples,
    extractor: FeatureExtractor,
    places: ExactLocalAffine,
    pooled: ExactLocalAffine,
    suspect_share: float,
    report: Report,
) -> NDArray[np.intp]:
    """Return the numbers of all images but the share with the least likely features, rising, ``(n,)``.

    Images of several tiles are compared by the mean log-likelihood of their tiles.
    """
    of_samples = [
        float(_energy(places, at_places).sum() + _energy(pooled, of_whole[:, None, None]).sum())
        for _, features, whole in _batches(samples, extractor, report, "suspects")
        for at_places, of_whole in zip(features, whole, strict=True)
    ]
    # Images of many tiles must not count as less likely than others.
    energies = np.bincount(samples.owners, of_samples) / np.bincount(samples.owners)
    kept = len(energies) - round(suspect_share * len(energies))
    return np.sort(np.argsort(energies, kind="stable")[:kept])


class _Fits:
    """Fits to some of the folds, of the features at places and of the pooled features.

    Args:
        moments: The moments of the features at places, and of the pooled features.
        layer: Function that makes a layer from the shape of the features and the grid.
    """

    def __init__(self, moments: tuple[FeatureMoments, FeatureMoments], layer: Callable[..., ExactLocalAffine]) -> None:
        self._places, self._pooled = moments
        self._layer = layer

    def choose(self, folds: Sequence[int]) -> tuple[list[FitChoice], FitChoice]:
        """Return the choices for the features at places, the best first, and the best one for the pooled features."""
        return choose(self._places, folds), choose(self._pooled, folds, "identity")[0]

    def layers(
        self, folds: Sequence[int], choices: Sequence[FitChoice], pooled_choice: FitChoice
    ) -> tuple[ExactLocalAffine, ExactLocalAffine]:
        """Return a layer over the features at places and one over the pooled features, fitted to some folds."""
        places = self._layer(self._places.shape, choices[0].grid)
        pooled = self._layer(self._pooled.shape, 1)
        fit_layer(places, self._places, folds, choices[0])
        fit_layer(pooled, self._pooled, folds, pooled_choice, "identity")
        return places.eval(), pooled.eval()


def _unseen(
    samples: TrainingSamples,
    extractor: FeatureExtractor,
    folds: Folds,
    fits: _Fits,
    choices: Sequence[tuple[list[FitChoice], FitChoice]],
    report: Report,
) -> tuple[FeatureEvidence, ...]:
    """Return, for each fold, the evidence of the images outside it, by fits that have seen neither fold nor image.

    For fold k, the images of fold j are measured by the fit without j and k, with the grid and the shrinkage that were
    chosen without k.
    """
    count = len(choices)
    layers = {}
    for pair in combinations(range(count), 2):
        kept = [fold for fold in range(count) if fold not in pair]
        for fold in pair:
            other = pair[0] if fold == pair[1] else pair[1]
            layers[fold, other] = fits.layers(kept, *choices[fold])
    places: list[list[NDArray[np.floating]]] = [[] for _ in range(count)]
    pooled: list[list[NDArray[np.float64]]] = [[] for _ in range(count)]
    kind = np.float64 if samples.plans is None else np.float32
    for start, features, whole in _batches(samples, extractor, report, "folds"):
        for row in range(len(features)):
            of_image = int(folds[samples.owners[start + row]])
            for fold in range(count):
                if fold != of_image:
                    over_places, over_pooled = layers[fold, of_image]
                    places[fold].append(_energy(over_places, features[row])[0].astype(kind))
                    pooled[fold].append(_energy(over_pooled, whole[row, :, None, None], extractor.pooled)[:, 0, 0])
    plans = [
        None if samples.plans is None else tuple(samples.plans[number] for number in np.flatnonzero(folds != fold))
        for fold in range(count)
    ]
    return tuple(
        FeatureEvidence(np.stack(at_places)[:, None], np.stack(of_whole)[:, None], of_fold)
        for at_places, of_whole, of_fold in zip(places, pooled, plans, strict=True)
    )


@torch.no_grad()
def _energy(
    layer: ExactLocalAffine, features: NDArray[np.float32], groups: Sequence[int] | None = None
) -> NDArray[np.float64]:
    """Return ||z||² / 2 over groups of channels at each place of an image, ``(groups, rows, columns)``.

    Args:
        layer: The layer.
        features: The features of an image, ``(C, rows, columns)``.
        groups: The numbers of channels in the groups; None for a single group.
    """
    z = layer.apply_weight(torch.from_numpy(features)[None] - layer.mean)
    sums = sums_of_groups(z.double().square(), groups or z.shape[1:2])
    energy: NDArray[np.float64] = 0.5 * sums[0].numpy()
    return energy


def _batches(
    samples: TrainingSamples, extractor: FeatureExtractor, report: Report, part: str
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
    """Yield, for each batch of samples, the number of the first one, the features at places and the pooled features."""
    for start in range(0, len(samples), BATCH):
        batch = samples[start : start + BATCH]
        yield start, *extractor(batch)
        stop, images = start + len(batch), len(samples.images)
        report(part, int(samples.owners[stop]) if stop < len(samples) else images, images)
