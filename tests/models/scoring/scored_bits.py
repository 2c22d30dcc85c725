"""What a model gives for images, to the bit, in batches of several sizes. Free of torch."""

import hashlib
from typing import Any

import numpy as np

from snf_models.scorer import Scorer

SIZES = (1, 2, 5, 37)
"""Numbers of images that are judged at once: one by one, in waves, and both."""


def bits_of(scorer: Scorer, images: Any = None) -> str:
    """Returns a digest of scores, verdicts, evidence and heat maps of images; without images, of noise."""
    if images is None:
        noise = np.random.default_rng(0).integers(0, 256, (max(SIZES), *scorer.preprocessing.shape), dtype=np.uint8)
        images = np.concatenate([scorer.pinned, noise])
    digest = hashlib.sha256()
    for size in SIZES:
        for image in scorer.detect(images[:size], draws=1 + (size == 2), explain=size == 5):
            likelihood, verdict, evidence = image.likelihood, image.verdict, image.likelihood.evidence
            digest.update(repr((likelihood.log_likelihood, verdict.statistic, verdict.p_value)).encode())
            digest.update(np.ascontiguousarray(evidence.whole).tobytes())
            if image.heat_map is not None:
                digest.update(np.ascontiguousarray(image.heat_map.anomaly).tobytes())
    return digest.hexdigest()
