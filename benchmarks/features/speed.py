"""Images a second of a whole verdict, and of its backbone alone in the same engine, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.features.common import FeatureRun
from benchmarks.features.fit import SIDE, enlarged_cells
from benchmarks.features.trained import trained_scorer
from snf_models.features.backbones import Backbone, BackboneStore
from snf_models.scorer import Scorer
from snf_models.scoring.open_density import open_extractor
from snf_runtime.images.preprocessing import Pixels

NAME = "speed"
BATCH = 32
BATCHES = 4


def measure(run: FeatureRun) -> None:
    """Time both in turns, print, write."""
    images = enlarged_cells(run, run.some(1100, 60))
    scorer = trained_scorer(run, f"enlarged-{len(images)}", images[: len(images) - BATCH * 2])
    batches = [np.ascontiguousarray(images[-BATCH * (1 + number % 2) :][:BATCH]) for number in range(BATCHES)]
    alone = backbone_alone(run.store, run.backbone, scorer, run)
    sides: dict[str, Callable[[Pixels], object]] = {"verdict": scorer.detect, "backbone": alone}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(run.some(run.extras["rounds"], 2) + 1):
        for name, work in sides.items():
            started = time.perf_counter()
            for batch in batches:
                work(batch)
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    ratios = [b / v for b, v in zip(seconds["backbone"], seconds["verdict"], strict=True)]
    document = {
        "engine": scorer.density.engine_name,
        "precision": scorer.density.precision,
        "side": SIDE,
        "batch": BATCH,
        "rounds": len(ratios),
        "images_a_second": {name: BATCH * BATCHES / statistics.median(of) for name, of in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4),
    }
    run.write(NAME, document, report(document))
    print(report(document))


def backbone_alone(
    store: BackboneStore, backbone: Backbone, scorer: Scorer, run: FeatureRun
) -> Callable[[Pixels], object]:
    """Return a function that runs the backbone of a model alone, from 8-bit images to the features of places."""
    shape = scorer.preprocessing.shape
    size = backbone.input_size(*shape[1:])
    return open_extractor(store, backbone, shape, size, run.options)


def report(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    rates = document["images_a_second"]
    low, _, high = document["ratio_quartiles"]
    return "\n".join(
        [
            "# Images a second of a whole verdict",
            "",
            f"From 8-bit images of {SIDE}x{SIDE} in memory, batch {BATCH}, {document['engine']}, "
            f"{document['precision']}, {document['rounds']} rounds in turns.",
            "",
            "| what | images/s |",
            "|---|---|",
            f"| whole verdict | {rates['verdict']:.1f} |",
            f"| backbone alone, with its preprocessing and pooling | {rates['backbone']:.1f} |",
            f"| verdict / backbone | {document['ratio']:.3f} (quartiles {low:.3f} - {high:.3f}) |",
            "",
        ]
    )
