"""Metrics of localisation by ``anomalib``, in its own environment: :mod:`benchmarks.features.localisation` runs it.

Arguments: a file with maps, masks and the range of AUPIMO, and a file for the answer. Normal images have empty masks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from anomalib.metrics.aupro import _AUPRO
from anomalib.metrics.auroc import _AUROC
from anomalib.metrics.pimo.functional import aupimo_scores


def main() -> None:
    """Compute pixel AUROC and AUPRO of maps in [0, 1], and AUPIMO of whole numbers with a threshold at each of them."""
    given, answer = sys.argv[1:]
    with np.load(given) as arrays:
        unit, whole, raw = (torch.from_numpy(arrays[name]) for name in ("unit", "whole", "raw"))
        masks = torch.from_numpy(arrays["masks"])
        bounds = tuple(arrays["bounds"].tolist())
    auroc, aupro = _AUROC(), _AUPRO(fpr_limit=0.3)
    auroc.update(unit.flatten(), masks.flatten().int())
    aupro.update(unit, masks.int())
    normal = whole[~masks.flatten(1).any(1)]
    levels = int(normal.max() - normal.min()) + 1
    exact = aupimo_scores(whole, masks, num_thresholds=levels, fpr_bounds=bounds, force=True)
    usual = aupimo_scores(raw, masks, num_thresholds=20_000, force=True)
    found = {
        "pixel_auroc": float(auroc.compute()),
        "aupro": float(aupro.compute()),
        "aupimo": exact[4][exact[3] == 1].tolist(),
        "aupimo_20000_thresholds": float(usual[4][usual[3] == 1].mean()),
        "levels": levels,
    }
    Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
