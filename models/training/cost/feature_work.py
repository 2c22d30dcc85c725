"""Counts of the operations and memory of fitting flows to features."""

from __future__ import annotations

from dataclasses import dataclass

from models.features.fit import FEW_CELLS, GRIDS
from models.features.lite0 import BLOCKS, STEM
from models.flows.architecture import FINEST_GRID, FeatureArchitecture
from models.training.cost.operation_counter import Work
from models.training.feature_steps import BATCH as STEPS_BATCH
from models.training.fit_feature_flows import BATCH, CHOICE_FOLDS

DOUBLE = 2
"""Factor of operations in float64: a vector register holds half as many numbers."""
SLOW_FACTORISATION = 10
"""Factor of the operations of many small factorisations, which reach a tenth of the rate of a large product."""
EVALUATIONS = 12
"""Degrees of shrinkage that are tried for a grid, about."""
WIDEST_CHANNELS = 96
"""Channels of the largest activation of the backbone, at half the size of its input."""


@dataclass(frozen=True)
class FeatureWork:
    """Work and memory of a fit."""

    backbone: Work  # features of one image
    moments: Work  # adding one image to them
    scoring: Work  # latents of one image under one fit
    update: Work  # an optimiser step of the Glow steps
    choice: Work  # grid and shrinkages, once
    layers: Work  # fit of the layers and their log-dets, once
    parameters: int  # of one fit with the finest grid, and of the Glow steps
    moment_bytes: int  # of one fold
    layer_bytes: int  # of one fit
    batch_bytes: int  # activations
    feature_bytes: int  # of one image


def feature_work(architecture: FeatureArchitecture) -> FeatureWork:
    """Count from the shapes of arrays. A backbone that is an ONNX file counts as EfficientNet-Lite0."""
    channels, rows, columns = architecture.feature_shape
    places, pooled = rows * columns, sum(architecture.pooled)
    cells = min(rows, FINEST_GRID) * min(columns, FINEST_GRID)
    matrices = cells * channels**2 + pooled**2
    product = DOUBLE * 2 * (places * channels**2 + pooled**2)
    height, width = architecture.input_size
    learned = 2 if architecture.linear == "self-normalizing" else 1
    hidden, kept = architecture.hidden, (channels + 1) // 2
    weights = hidden * (9 * channels + hidden)
    mapped, coupled = 2 * places * channels**2, 2 * places * weights
    # The self-normalizing product takes six products, any other layer three: forward, and the two gradients.
    trained = architecture.steps * (3 * learned * mapped + 3 * coupled) + mapped
    of_step = learned * channels**2 + channels + weights + hidden * (2 + places) + 2 * (channels - kept)
    parameters = learned * matrices + channels * places + pooled + architecture.steps * of_step
    return FeatureWork(
        backbone=Work(flops=backbone_flops(height, width)),
        moments=Work(flops=product, bytes=3 * 8 * matrices / BATCH),
        scoring=Work(flops=product + DOUBLE * architecture.steps * (mapped + coupled)),
        update=Work(flops=STEPS_BATCH * trained),
        choice=_choice(channels, places, cells) + _choice(pooled, 1, 1),
        layers=_factorisations(channels, cells) + _factorisations(pooled, 1) + Work(flops=6 * product),
        parameters=parameters,
        moment_bytes=8 * (matrices + channels * places),
        layer_bytes=4 * parameters,
        feature_bytes=4 * (places * channels + pooled),
        batch_bytes=3 * BATCH * 4 * WIDEST_CHANNELS * height * width // 4,
    )


def backbone_flops(height: int, width: int) -> int:
    """Return the flops of EfficientNet-Lite0 for one image, up to its deepest feature map.

    >>> round(backbone_flops(224, 224) / 1e9, 2)
    0.73
    """
    height, width = height // 2, width // 2
    total = 9 * 3 * STEM * height * width
    for block in BLOCKS:
        hidden = block.inputs * block.expansion
        if block.expansion > 1:
            total += block.inputs * hidden * height * width
        height, width = -(-height // block.stride), -(-width // block.stride)
        total += (block.kernel**2 + block.outputs) * hidden * height * width
    return 2 * total


def _choice(channels: int, places: int, cells: int) -> Work:
    total = Work()
    for grid in GRIDS:
        own = min(cells, grid**2)
        # Of the finest grid a quarter of the cells is evaluated where there are many.
        evaluated = own // 4 if own > FEW_CELLS else own
        terms = Work(flops=6 * DOUBLE * 2 * places * channels**2, bytes=6 * 3 * 8 * cells * channels**2)
        total = total + terms + _factorisations(channels, evaluated) * EVALUATIONS
    return total * CHOICE_FOLDS


def _factorisations(channels: int, matrices: int) -> Work:
    """Return the work of a Cholesky factorisation and an inverse of some matrices in float64."""
    flops = SLOW_FACTORISATION * DOUBLE * matrices * channels**3
    return Work(flops=flops, bytes=10 * 8 * matrices * channels**2)
