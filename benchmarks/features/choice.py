"""Whether held-out likelihood chooses well: every grid and shrinkage, with its likelihood and its AUROC.

The AUROC is a diagnosis: it needs the defective cells and chooses nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from scipy.stats import spearmanr

from benchmarks.features.cells import CellSplit, SolarCells
from benchmarks.features.common import FeatureRun
from benchmarks.features.lookup import LookupEngine, LookupExtractor
from snf_models.anomaly.calibrate import collect_evidence
from snf_models.bijections.local_affine import SelfNormalizingLocalAffine
from snf_models.evaluation.metrics import separation
from snf_models.features.fit import SHRINKAGES, FeatureMoments, FitChoice, HeldOut, choose, fit_layer
from snf_models.features.flows import FeatureFlows, freeze_features
from snf_runtime.anomaly.statistics.features import FeatureFamily
from snf_runtime.scoring.feature_density import FeatureDensity

NAME = "choice"
COUNTS = (1000, 100)
FOLDS = 5
BATCH = 32


def measure(run: FeatureRun) -> None:
    """Measure every grid and shrinkage on some splits, and write after each."""
    cells = SolarCells.load(run)
    document = {"splits": {}, **run.known(NAME)}
    for seed in range(min(run.seeds, run.extras["choice_splits"])):
        for count in COUNTS:
            key = f"{seed}-{count}"
            if key not in document["splits"] or run.extras["again"]:
                document["splits"][key] = on_split(run, cells, cells.split(seed), count)
                run.write(NAME, document, report(document))
                Console(stderr=True).print(key, {k: v for k, v in document["splits"][key].items() if k != "points"})
    print(report(document))


def on_split(run: FeatureRun, cells: SolarCells, split: CellSplit, count: int) -> dict[str, Any]:
    """Return likelihood and AUROC of every grid and shrinkage, with the shrinkage of means chosen for the grid."""
    train = split.train[:count]
    own = np.arange(count) * FOLDS // count
    extract = LookupExtractor(cells.table)
    moments = FeatureMoments(extract.feature_shape, FOLDS)
    pooled = FeatureMoments((sum(extract.pooled), 1, 1), FOLDS, extract.pooled)
    for start in range(0, count, BATCH):
        places, whole = extract(train[start : start + BATCH])
        moments.add(places, own[start : start + BATCH])
        pooled.add(whole[:, :, None, None], own[start : start + BATCH])
    chosen = choose(moments, range(FOLDS))
    over_pooled = SelfNormalizingLocalAffine(pooled.shape, 1)
    fit_layer(over_pooled, pooled, range(FOLDS), choose(pooled, range(FOLDS), "identity")[0], "identity")
    points = []
    for choice in chosen:
        pairs = [held_out(moments, fold, choice.grid) for fold in range(FOLDS)]
        # A single cell is what shrinkage aims at: it changes nothing.
        for shrinkage in (choice.shrinkage,) if choice.grid == 1 else SHRINKAGES[:: run.some(1, 5)]:
            nats = float(np.mean([pair.nats(shrinkage, choice.mean_shrinkage) for pair in pairs]))
            tried = FitChoice(choice.grid, shrinkage, choice.mean_shrinkage, nats)
            layer = SelfNormalizingLocalAffine(moments.shape, choice.grid)
            fit_layer(layer, moments, range(FOLDS), tried)
            flows = FeatureFlows([layer.eval()], [over_pooled.eval()], groups=extract.pooled)
            points.append({**asdict(tried), **aurocs(cells, split, flows)})
    best = min(points, key=lambda point: point["held_out"])
    nats, found = ([point[key] for point in points] for key in ("held_out", "auroc"))
    return {
        "chosen": asdict(chosen[0]),
        "auroc of the chosen": best["auroc"],
        "best auroc": max(found),
        "lost": max(found) - best["auroc"],
        "rank correlation": float(spearmanr(-np.array(nats), found).statistic),
        "points": points,
    }


def held_out(moments: FeatureMoments, fold: int, grid: int) -> HeldOut:
    """Return the likelihood of a fold under fits to the others, as :func:`choose` computes it."""
    others = moments.total([other for other in range(FOLDS) if other != fold])
    return HeldOut(others, moments.total([fold]), grid, "all-places")


def aurocs(cells: SolarCells, split: CellSplit, flows: FeatureFlows) -> dict[str, float]:
    """Return the AUROC of the merged surprise of the features, and that of the largest place."""
    frozen = freeze_features(flows)
    shape = (1, *split.test.shape[2:])
    density = FeatureDensity(LookupEngine(cells.table, frozen), frozen, "", shape, (224, 224))
    sets = [collect_evidence(density, of).evidence.features for of in (split.statistics, split.test, cells.defective)]
    statistics, normal, strange = (of for of in sets if of is not None)
    family = FeatureFamily.fit(statistics)
    places = [family.statistics(of)[:, 0] for of in (normal, strange)]
    return {
        "auroc": separation(family.surprise(normal), family.surprise(strange)).auroc,
        "auroc of the largest place": separation(*places).auroc,
    }


def report(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    columns = ("chosen", "held-out nats", "AUROC of the chosen", "best AUROC of all", "lost", "rank correlation")
    lines = [
        "# Held-out likelihood as a choice",
        "",
        "Every grid and shrinkage was fitted on each split. The AUROC chose nothing; the rank correlation is that of "
        "held-out log-likelihood and AUROC over all of them.",
        "",
        f"| split, training cells | {' | '.join(columns)} |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for key, row in document["splits"].items():
        chosen = row["chosen"]
        lines.append(
            f"| {key.replace('-', ', ')} | grid {chosen['grid']}, shrinkage {chosen['shrinkage']:g} "
            f"| {chosen['held_out']:.3f} | {row['auroc of the chosen']:.4f} | {row['best auroc']:.4f} "
            f"| {row['lost']:.4f} | {row['rank correlation']:.3f} |"
        )
    return "\n".join(lines) + "\n"
