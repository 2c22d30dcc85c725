"""Check of converted weights, by their shapes and by the logits of a test image."""

from __future__ import annotations

import numpy as np
import torch

from snf_models.errors import BackboneUnfit
from snf_models.features.extractor import normalised
from snf_models.features.lite0 import LITE0, Arrays, weight_shapes
from snf_models.features.lite0_network import Lite0Network
from snf_runtime.images.preprocessing import Pixels

SIDE = 224
LOGITS = {0: 1.354786, 417: 7.091344, 500: -1.307129, 506: 7.669801, 616: 6.878141, 999: -1.078888}
"""Logits of the test image by ImageNet class, from the original network in float64 without folded normalisations."""
TOLERANCE = 1e-3
"""Largest deviation of a logit; rounding the folded weights to float32 moves them by 3e-6."""


def check_image() -> Pixels:
    """Return a synthetic image, uint8 ``(1, 3, 224, 224)``, computed from integers alone."""
    row, column = np.mgrid[:SIDE, :SIDE]
    rings = ((row - 90) ** 2 + (column - 130) ** 2) // 24
    stripes = 3 * row + 5 * column
    waves = np.stack([rings, stripes, rings + 2 * stripes])
    return (255 - abs(waves % 510 - 255)).astype(np.uint8)[None]


def check_weights(weights: Arrays) -> None:
    """Raise ``BackboneUnfit`` if a name, a shape or a logit of the test image differs."""
    expected, given = weight_shapes(), {name: array.shape for name, array in weights.items()}
    for name in sorted(expected.keys() | given.keys()):
        if given.get(name) != expected.get(name):
            raise BackboneUnfit(f"expected shape {expected.get(name)} of the weights {name}, got {given.get(name)}")
    with torch.inference_mode():
        x = normalised(check_image(), LITE0, (SIDE, SIDE), torch.float64)
        logits = Lite0Network(weights, torch.float64).logits(x)[0]
    for number, logit in LOGITS.items():
        if not abs(logits[number] - logit) <= TOLERANCE:
            raise BackboneUnfit(
                f"expected {logit:.4f} as logit {number} of the test image, got {float(logits[number]):.4f}"
            )
