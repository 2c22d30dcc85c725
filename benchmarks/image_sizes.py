"""False alarms of a model of tiles by the size of the image, over random splits of mosaics of real digits.

``SNF_DATA_DIR=... python -m benchmarks.image_sizes [--splits 200] [--folder FOLDER]``

A model of tiles of 64 pixels is calibrated on mosaics with sides of 64 to 128, and of 64 to 512 pixels. Mosaics of
those sizes, of 256 and of 1,024 pixels are judged at alpha = 5 %: shares flagged and not judged, and flagged if no size
is taken into account, as in earlier versions. All are cut at random from one endless mosaic, so that they differ in
size alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.needs import data_dir
from snf_models.anomaly.calibrate import ReferenceEvidence, collect_evidence, fit_split
from snf_models.datasets import Dataset, load_dataset
from snf_models.datasets.dataset import digest_of
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import train
from snf_models.scorer import Scorer
from snf_runtime.anomaly.statistics.features import FeatureFamily
from snf_runtime.images.batch import stacked
from snf_runtime.images.preprocessing import Pixels, Preprocessing
from snf_runtime.scoring.evidence import Evidence, FeatureEvidence

RESULTS = Path(__file__).parent / "results"
SIDE = 64
TRAINED, STATISTICS, CALIBRATION = 400, 200, 200
CALIBRATED = {"64 to 128": 2000, "64 to 512": 800}
"""Mosaics of each range of sides in pixels, split into statistics, calibration and tested ones."""
OTHERS = {"256": 200, "1,024": 40}
GROUPS = ((1, 2), (3, 4), (5, 9), (10, 30), (31, 100))
"""Numbers of tiles that are counted together."""
ALPHA = 0.05


def mosaic(digits: Pixels, seed: int, size: str) -> Pixels:
    """Return a part of a mosaic of random digits, uint8 ``(1, H, W)``, with sides that are multiples of 16."""
    random = np.random.default_rng(seed)
    least, _, most = size.replace(",", "").partition(" to ")
    sides = 16 * random.integers(int(least) // 16, int(most or least) // 16 + 1, 2)
    rows, columns = (sides // 28 + 2).tolist()
    chosen = digits[random.integers(0, len(digits), rows * columns)].reshape(rows, columns, 28, 28)
    whole = chosen.transpose(0, 2, 1, 3).reshape(1, rows * 28, columns * 28)
    top, left = random.integers(0, 28, 2)
    return np.ascontiguousarray(whole[:, top : top + sides[0], left : left + sides[1]])


def scorer_of(folder: Path, digits: Pixels) -> Scorer:
    """Return the model, fitted to mosaics that are used for nothing else."""
    images = [mosaic(digits, seed, "64 to 128") for seed in range(TRAINED + STATISTICS + CALIBRATION)]
    parts = images[:TRAINED], images[TRAINED : TRAINED + STATISTICS], images[TRAINED + STATISTICS :]
    tiles = Preprocessing(1, SIDE, SIDE, "tiles")
    dataset = Dataset("mosaics", *parts, test=[], digest=digest_of(*images), preprocessing=tiles)
    config = find_preset("snf-features").config({"fit": "tiles", "image_size": SIDE})
    artifact = train(dataset, "snf-features", config, folder, observe=lambda _: None, should_stop=lambda: False)
    return Scorer.load(artifact)


def shares(evidence: dict[str, ReferenceEvidence], calibrated: str, splits: int) -> dict[str, dict[str, float]]:
    """Return the shares of the images of each size that are flagged and not judged, over random splits.

    All sizes are judged alike inside of :func:`without_sizes`.
    """
    random = np.random.default_rng(0)
    own, counts = evidence[calibrated], _tiles(evidence[calibrated])
    groups = {f"{low} to {high} tiles": (calibrated, (low, high)) for low, high in GROUPS if low <= counts.max()}
    groups |= {size: (size, (0, 10**6)) for size in (calibrated, *OTHERS)}
    flagged, judged, images = (dict.fromkeys(groups, 0) for _ in range(3))
    for _ in range(splits):
        rows = np.split(random.permutation(len(counts)), [STATISTICS, STATISTICS + CALIBRATION])
        calibration = fit_split(_rows(own, rows[0]), _rows(own, rows[1]), (), None)
        limits = calibration.tile_counts
        assert limits is not None
        for name, (size, (low, high)) in groups.items():
            tiles = _tiles(evidence[size])
            tested = rows[2] if size == calibrated else np.arange(len(tiles))
            tested = tested[(tiles[tested] >= low) & (tiles[tested] <= high)]
            inside = tested[(tiles[tested] >= limits[0]) & (tiles[tested] <= limits[1])]
            images[name] += len(tested)
            judged[name] += len(inside)
            if len(inside):
                flagged[name] += int((calibration.p_values(evidence[size].evidence[np.sort(inside)]) <= ALPHA).sum())
    return {
        name: {
            "images": images[name],
            "not_judged": 1 - judged[name] / images[name],
            "flagged": flagged[name] / images[name],
        }
        for name in groups
    }


@contextmanager
def without_sizes() -> Iterator[None]:
    """Judge images of all sizes alike inside of a ``with`` block, as earlier versions did."""

    def same(evidence: FeatureEvidence) -> Any:
        return np.zeros(len(evidence))

    def every(_evidence: Evidence) -> Any:
        return np.array([1, 10**6])

    with patch(f"{FeatureFamily.__module__}._log_places", same), patch(f"{fit_split.__module__}._tile_counts", every):
        yield


def _tiles(part: ReferenceEvidence) -> Any:
    features = part.evidence.features
    assert features is not None
    assert features.plans is not None
    return np.array([len(plan) for plan in features.plans])


def _rows(part: ReferenceEvidence, rows: Any) -> ReferenceEvidence:
    chosen = np.sort(rows)
    return ReferenceEvidence(part.evidence[chosen], part.log_likelihoods[chosen], None, None, image=(SIDE, SIDE))


def report(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# False alarms of a model of tiles by the size of the image",
        "",
        f"Tiles of {SIDE} pixels, calibrated on {CALIBRATION} mosaics of digits, means over {document['splits']} "
        f"random splits. Flagged at alpha = {ALPHA:.0%}, as a share of all images.",
        "",
        "| calibrated on sides of | images with sides of | flagged before | flagged | not judged |",
        "|---|---|---:|---:|---:|",
    ]
    for calibrated, sizes in document["calibrated"].items():
        for name, row in sizes.items():
            which = f"{calibrated}: {name}" if name.endswith("tiles") else name
            before = document["before"][calibrated][name]["flagged"]
            lines.append(f"| {calibrated} | {which} | {before:.1%} | {row['flagged']:.1%} | {row['not_judged']:.1%} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fit, score, split, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("var/image_sizes"), help="the model is kept here")
    chosen = parser.parse_args()
    digits = stacked(load_dataset("mnist", data_dir("mnist")).train)[:, 0]
    scorer = scorer_of(chosen.folder, digits)
    evidence = {}
    for number, (size, count) in enumerate((CALIBRATED | OTHERS).items(), 1):
        images = [mosaic(digits, 10_000 * number + seed, size) for seed in range(count)]
        evidence[size] = collect_evidence(scorer.density, images)
    calibrated = {size: shares(evidence, size, chosen.splits) for size in CALIBRATED}
    with without_sizes():
        before = {size: shares(evidence, size, chosen.splits) for size in CALIBRATED}
    document = {"splits": chosen.splits, "calibrated": calibrated, "before": before}
    (RESULTS / "image_sizes.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "image_sizes.md").write_text(report(document), encoding="utf-8")
    print(report(document))


if __name__ == "__main__":
    main()
