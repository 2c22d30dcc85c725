"""Which family is proposed within a few minutes, beside the family that the full detection limits give."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.elpv import cells
from benchmarks.features.cells import SIZES
from benchmarks.features.common import FeatureRun
from models.artifacts.detection_limit import LimitRecord
from models.datasets import Dataset, load_dataset
from models.datasets.dataset import digest_of
from models.recommendation.compare import compare_families
from models.recommendation.record import FAMILIES, PRESET_OF, FamilyName, FamilyResult, RecommendationRecord
from models.recommendation.record import RecommendParameters as Parameters
from models.recommendation.rule import limit_cell_text, mean_rank, propose

NAME = "recommend"
CELLS = "elpv"
PARTS_OF_RUN = (CELLS, "fashion-mnist", "mnist")
"""Datasets of the benchmark."""
FULL = "limits"
"""The benchmark whose results are the full detection limits."""
KIND_OF: dict[FamilyName, str] = {"features": "feature model", "pixels": "pixel model", "hybrid": "hybrid"}
"""Names of the families in the results of the full detection limits."""


def measure(run: FeatureRun) -> None:
    """Compare the families on every dataset that has no result yet, and write after each."""
    document: dict[str, Any] = {"datasets": {}, **run.known(NAME)}
    minutes = run.some(run.extras["minutes"], 1)
    for name in run.extras["only"]:
        if name in document["datasets"] and not run.extras["again"]:
            continue
        began = time.monotonic()
        record = compared(run, name, minutes, began)
        row = {"wall_seconds": time.monotonic() - began, "record": record.model_dump(mode="json")}
        document["datasets"][name] = row
        Console(stderr=True).print(f"{name}: {record.proposal} in {row['wall_seconds']:.0f} s")
        run.write(NAME, document, report(run, document))
    run.write(NAME, document, report(run, document))
    print(report(run, document))


def compared(run: FeatureRun, name: str, minutes: float, began: float) -> RecommendationRecord:
    """Return the comparison of the families on a dataset, made anew."""
    folder = run.folder / NAME / name
    shutil.rmtree(folder, ignore_errors=True)
    console = Console(stderr=True)

    def observe(event: dict[str, Any]) -> None:
        if event["event"] == "log":
            console.print(f"{name}, {time.monotonic() - began:.0f} s: {event['message']}", highlight=False)

    return compare_families(
        dataset_of(run.data_dir, name),
        Parameters(minutes=minutes),
        folder,
        observe=observe,
        should_stop=lambda: False,
        options=run.options,
        began=began,
    )


def dataset_of(data_dir: Path, name: str) -> Dataset:
    """Return a dataset; of solar cells the functional ones, in the split of the README of the data."""
    if name != CELLS:
        return load_dataset(name, data_dir)
    normal, _ = cells(data_dir / "elpv64.npz")
    order = np.random.default_rng(0).permutation(len(normal))
    parts = [normal[rows] for rows in np.split(order, np.cumsum(SIZES))]
    return Dataset(name, *parts, digest_of(*parts[:3]))


def full_results(run: FeatureRun, name: str) -> tuple[list[FamilyResult], tuple[int, ...]]:
    """Return the full detection limits of each family on a dataset as results of a comparison, and the sizes."""
    rows = run.known(FULL).get("datasets", {}).get(name, {})
    results, sizes = [], ()
    for family in FAMILIES:
        if KIND_OF[family] not in rows:
            continue
        record = LimitRecord.model_validate(rows[KIND_OF[family]])
        sizes = record.sizes
        rank = mean_rank(record.curves, sizes) if record.curves else None
        results.append(FamilyResult(family=family, preset=PRESET_OF[family], curves=record.curves, mean_rank=rank))
    return results, sizes


def report(run: FeatureRun, document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Which family: a comparison of minutes beside the full detection limits",
        "",
        "The family with the smallest mean rank of its limits; a cheaper one (features, pixels, hybrid) within half a "
        "size. Full limits: models of the whole training part, [features_limits.md](features_limits.md).",
        "",
        "| dataset | seconds | proposed | mean ranks | by the full limits | mean ranks | right |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in document["datasets"].items():
        record = RecommendationRecord.model_validate(row["record"])
        full, sizes = full_results(run, name)
        expected = propose(full, sizes).family if len(full) == len(FAMILIES) else None
        right = "not known" if not full else "yes" if record.proposal == expected else "no"
        lines.append(
            f"| {name} | {row['wall_seconds']:.0f} | {record.proposal or 'none'} | {_ranks(record.families)} | "
            f"{expected or '-'} | {_ranks(full)} | {right} |"
        )
    for name, row in document["datasets"].items():
        record = RecommendationRecord.model_validate(row["record"])
        lines += [
            "",
            f"## {name}",
            "",
            *_table(record),
            "",
            *(f"- {text}" for text in (*record.reasons, *record.notes)),
        ]
    return "\n".join(lines) + "\n"


def _ranks(results: Any) -> str:
    known = (result for result in results if result.mean_rank is not None)
    return ", ".join(f"{result.family} {result.mean_rank:.2f}" for result in known) or "-"


def _table(record: RecommendationRecord) -> list[str]:
    images, (_, height, width) = record.images, record.image_shape
    compared_families = [result for result in record.families if result.curves]
    lines = [
        f"{height}x{width}: {images.fit} images fitted, {images.statistics} for statistics, {images.ranks} for ranks, "
        f"{images.good} with defects; false-alarm rate {record.alpha:g}. Limits in pixels; in brackets the share found "
        "at the largest size.",
        "",
        f"| | {' | '.join(result.family for result in compared_families)} |",
        "|---" * (1 + len(compared_families)) + "|",
    ]
    for rows in zip(*(result.curves for result in compared_families), strict=True):
        lines.append(f"| {rows[0].label} | {' | '.join(map(limit_cell_text, rows))} |")
    figures = {
        "mean rank": [f"{result.mean_rank:.2f}" for result in compared_families],
        "held-out likelihood (trivial)": [
            f"{result.held_out:.3f} ({result.baseline:.3f}) {result.unit}" for result in compared_families
        ],
        "flagged without a defect": [
            f"{result.undamaged.flagged} of {result.undamaged.images}"
            for result in compared_families
            if result.undamaged
        ],
        "seconds to fit": [f"{result.fit_seconds:.0f}" for result in compared_families],
        "seconds for 1,000 images": [f"{result.seconds_per_1000:.1f}" for result in compared_families],
    }
    return [*lines, *(f"| {label} | {' | '.join(cells)} |" for label, cells in figures.items())]
