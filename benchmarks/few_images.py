"""Verdicts of the shipped models where few images are there to fit their statistics to.

    SNF_DATA_DIR=... python -m benchmarks.few_images [--images 1000] [MODEL ...]

The statistics are fitted to the first 20 to 2,000 images of the statistics part, once with survival functions of images
that the densities have not seen (as the product does below 2,000), once with those of the fit. Faults of one part of
the test images are told from the other part; what is flagged at 1 % is by ranks among all calibration images.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.needs import data_dir
from snf_models.anomaly.calibrate import collect_evidence
from snf_models.anomaly.statistic_densities import FEW, fit_statistic
from snf_models.datasets import load_dataset
from snf_models.datasets.builtin import FILES
from snf_models.disk import write_atomically
from snf_models.evaluation.corruptions import Corruption, corrupt
from snf_models.evaluation.metrics import separation
from snf_models.registry.registry import Registry
from snf_models.scorer import Scorer
from snf_runtime.anomaly.conformal import p_values
from snf_runtime.scoring.evidence import Evidence

RESULTS = Path(__file__).parent / "results"
COUNTS = (20, 60, 150, 400, 1000, 2000)
FAULTS = (
    Corruption("noise", 2),
    Corruption("blur", 0.8),
    Corruption("contrast", 0.8),
    Corruption("shift", 1),
    Corruption("rotation", 45),
    Corruption("hole", 6),
    Corruption("line", 1),
)
ALPHA = 0.01


def main() -> int:
    """Measure, print, write; a model's rows replace its earlier ones."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.few_images")
    parser.add_argument("models", nargs="*", default=["fashion-snf-glow", "cifar10-snf-glow", "mnist-snf-glow"])
    parser.add_argument("--images", type=int, default=1000, help="test images with a fault, and as many without")
    arguments = parser.parse_args()
    folder, path = data_dir(*FILES), RESULTS / "few_images.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in arguments.models:
        rows[name] = measure(
            Scorer.load(Registry(Path("var/registry")).resolve(f"{name}:1").path), arguments.images, folder
        )
        write_atomically(path, json.dumps(rows, indent=1).encode())
        write_atomically(path.with_suffix(".md"), report(rows).encode())
    print(report(rows))
    return 0


def measure(scorer: Scorer, images: int, folder: Path) -> list[dict[str, Any]]:
    """Return for each number of images and both kinds of survival function what is found of each fault."""
    dataset = load_dataset(scorer.manifest.training.dataset, folder)
    test = np.asarray(dataset.test[: 2 * images])
    parts: dict[str, NDArray[np.uint8]] = {
        "statistics": np.asarray(dataset.statistics[: max(COUNTS)]),
        "calibration": np.asarray(dataset.calibration),
        "normal": test[:images],
        **{str(fault): corrupt(test[images:], fault) for fault in FAULTS},
    }
    console = Console(stderr=True)
    evidence = {
        part: collect_evidence(scorer.density, pixels).evidence
        for part, pixels in track(parts.items(), scorer.manifest.training.dataset, console=console)
    }
    return [
        {"images": count, "by_folds": by_folds, "faults": found(scorer, evidence, count, FEW if by_folds else 0)}
        for count in COUNTS
        for by_folds in ((True, False) if count < FEW else (False,))
    ]


def found(scorer: Scorer, evidence: dict[str, Evidence], count: int, few: int) -> dict[str, dict[str, float]]:
    """Return AUROC and the share found at 1 % of each fault, by statistics fitted to some images.

    Args:
        scorer: The model.
        evidence: The evidence of each part.
        count: Images of the statistics part to fit to.
        few: Images below which survival functions come from folds.
    """
    statistic = fit_statistic(evidence["statistics"][:count], scorer.statistics, scorer.density.grid, few)
    values = {part: statistic(images) for part, images in evidence.items() if part != "statistics"}
    ranked = [np.sort(values["calibration"])]
    return {
        str(fault): {
            "auroc": separation(values["normal"], values[str(fault)]).auroc,
            "found": float((p_values(ranked, [values[str(fault)]]) <= ALPHA).mean()),
        }
        for fault in FAULTS
    }


def report(rows: dict[str, Any]) -> str:
    """Return the means over all faults, and each fault, as Markdown tables."""
    lines = ["# Verdicts where few images are there to fit statistics to", ""]
    for name, of_model in rows.items():
        lines += [
            f"## {name}",
            "",
            "AUROC / found at 1 %. Below 2,000 images the product takes survival functions by folds.",
            "",
            "| images | survival functions | mean | " + " | ".join(map(str, FAULTS)) + " |",
            "|---" * (3 + len(FAULTS)) + "|",
        ]
        for row in of_model:
            values = [(one["auroc"], one["found"]) for one in row["faults"].values()]
            cells = [f"{auroc:.3f} / {share:.0%}" for auroc, share in (np.mean(values, axis=0), *values)]
            how = "by folds" if row["by_folds"] else "of the fit"
            lines.append(f"| {row['images']:,} | {how} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
