"""Heat maps of twenty defective solar cells, to look at; they stay in the folder of the run.

The licence of the images is non-commercial, so no result holds them.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from benchmarks.features.cells import SolarCells
from benchmarks.features.common import FeatureRun
from benchmarks.features.trained import trained_on_split
from snf_models.anomaly.heat_map_picture import enlarged, overlay

SHOWN = 20
A_ROW = 10


def measure(run: FeatureRun) -> None:
    """Draw cells from the most anomalous to the least, their maps below them, and print their p-values."""
    cells = SolarCells.load(run)
    scorer, _ = trained_on_split(run, cells.split(0))
    random = np.random.default_rng(0)
    chosen = cells.defective[random.permutation(len(cells.defective))[:SHOWN]]
    verdicts = [judgement.verdict for judgement in scorer.judge_each(chosen)]
    threshold = scorer.calibration.map_threshold(scorer.calibration.default_alpha)
    order = sorted(range(SHOWN), key=lambda i: -verdicts[i].statistic)  # type: ignore[union-attr]
    above = [enlarged(np.repeat(chosen[i].transpose(1, 2, 0), 3, axis=2)) for i in order]
    maps = [scorer.heat_maps(chosen[i : i + 1])[0].anomaly for i in order]
    below = [
        np.asarray(Image.open(io.BytesIO(overlay(chosen[i], anomaly, threshold))))
        for i, anomaly in zip(order, maps, strict=True)
    ]
    rows = []
    for start in range(0, SHOWN, A_ROW):
        rows += [np.concatenate(part[start : start + A_ROW], 1) for part in (above, below)]
    path = run.folder / "heat_maps.png"
    Image.fromarray(np.concatenate(rows, 0)).save(path)
    for place, i in enumerate(order):
        verdict = verdicts[i]
        assert verdict is not None
        print(place, f"p {verdict.p_value:.4f}", "; ".join(reason.text for reason in verdict.reasons))
    print(path)
