"""Solar cells: functional ones train, defective ones are to be found; 64x64, few images, fine faults.

    SNF_DATA_DIR=... python -m benchmarks.elpv [--minutes 14] [--folder var/elpv]

1000 functional cells, mirrored, train; 300 others are the reference, once as 150 for statistics and 150 for p-values,
once all together by 5-fold cross-conformal; 208 more are told from 715 defective ones. Heat maps of ten defective cells
go to ``heat_maps.png`` in the folder, because no result may hold the images: ELPV (Buerhop-Lutz et al. 2018) is under
CC BY-NC-SA 4.0, and is for measuring only.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from benchmarks.needs import data_dir
from snf_models.anomaly.calibrate import calibrate
from snf_models.anomaly.heat_map_picture import enlarged, overlay
from snf_models.anomaly.reference_images import ReferenceImages
from snf_models.datasets.dataset import Dataset, digest_of
from snf_models.disk import write_atomically
from snf_models.evaluation.baselines import NAMES, Baselines
from snf_models.evaluation.metrics import intervals, separation
from snf_models.pipeline.run import train
from snf_models.scorer import Scorer
from snf_models.scoring.engines.torch_engine import TorchEngine
from snf_models.training.config import TrainingConfig
from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.pixel_density import PixelDensity

RESULTS = Path(__file__).parent / "results"
FOLDS = 5
SHOWN = 10
Pixels = NDArray[np.uint8]


def main() -> int:
    """Train, calibrate twice, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.elpv")
    parser.add_argument("--minutes", type=float, default=14.0)
    parser.add_argument("--folder", type=Path, default=Path("var/elpv"))
    arguments = parser.parse_args()
    normals, defective = cells(data_dir("elpv64.npz") / "elpv64.npz")
    parts = np.split(normals[np.random.default_rng(0).permutation(len(normals))], [1000, 1150, 1300])
    flips = [slice(None), slice(None, None, -1)]
    mirrored = np.concatenate([parts[0][:, :, rows, columns] for rows in flips for columns in flips])
    dataset = Dataset("elpv", mirrored, parts[1], parts[2], parts[3], digest_of(mirrored, parts[1], parts[2]))
    console = Console(stderr=True)
    artifact = train(
        dataset,
        "snf-glow-small",
        TrainingConfig(max_minutes=arguments.minutes, max_steps=1500, batch_size=32),
        arguments.folder,
        observe=lambda event: console.print(event) if event["event"] in ("validation", "evaluation") else None,
        should_stop=lambda: False,
    )
    scorer = Scorer.load(artifact)
    reference = np.concatenate([dataset.statistics, dataset.calibration])
    cross = ReferenceImages("elpv", "", reference, reference[:0], np.arange(len(reference), dtype=np.int8) % FOLDS)
    calibrations = {
        "150 + 150": scorer.calibration,
        "cross-conformal over 300": calibrate(
            PixelDensity(TorchEngine(scorer.pixels.frozen), scorer.pixels.frozen, scorer.log_det_digest),
            cross,
            scorer.pinned[0],
            lambda *_: None,
        )[0],
    }
    looks = {"normal": look(scorer, dataset.test), "defective": look(scorer, defective)}
    rows: dict[str, Any] = {name: measure(scorer, calibration, looks) for name, calibration in calibrations.items()}
    rows["baselines"] = baselines(scorer, dataset, defective)
    rows["test_bits_per_dim"] = scorer.manifest.evaluation.test_bits_per_dim
    write_atomically(RESULTS / "elpv.json", json.dumps(rows, indent=1).encode())
    write_atomically(arguments.folder / "heat_maps.png", heat_maps(scorer, defective, looks["defective"]))
    print(json.dumps(rows, indent=1))
    return 0


def cells(path: Path) -> tuple[Pixels, Pixels]:
    """Return functional and defective cells, ``(N, 1, 64, 64)``."""
    with np.load(path, allow_pickle=False) as arrays:
        images = next(arrays[name] for name in arrays.files if arrays[name].ndim == 3)[:, None]
        probability = arrays["defect_probability"]
    return images[probability == 0], images[probability == 1]


def look(scorer: Scorer, images: Pixels) -> Evidence:
    """Return the evidence of images."""
    found = scorer.score_each(np.ascontiguousarray(images))
    return Evidence.join([one.evidence for one in found if hasattr(one, "evidence") and one.evidence is not None])


def measure(scorer: Scorer, calibration: Calibration, looks: dict[str, Evidence]) -> dict[str, Any]:
    """Return AUROC with intervals of every score, and what is flagged at 5 %."""
    values: dict[str, list[NDArray[np.float64]]] = {
        "combined": [calibration.typical_statistics(found) for found in looks.values()],
    }
    fits = [fold.statistic for fold in calibration.folds]
    families = [np.mean([fit.families(found) for fit in fits], axis=0) for found in looks.values()]
    for index, name in enumerate(("whole image", "local")):
        values[name] = [found[:, index] for found in families]
    statistic = calibration.folds[0].statistic
    names = [*(statistic.names(scorer.statistics)[i] for i in statistic.whole.used), "complexity"]
    standardised = [np.abs(statistic.whole.standardised(statistic.statistics(found))) for found in looks.values()]
    for index, name in enumerate(names):
        values[name] = [found[:, index] for found in standardised]
    p = {name: calibration.p_values(found) for name, found in looks.items()}
    return {
        "auroc": {name: [separation(*pair).auroc, *intervals(*pair)[0]] for name, pair in values.items()},
        "flagged_at_5_percent": {name: float((found <= 0.05).mean()) for name, found in p.items()},
    }


def baselines(scorer: Scorer, dataset: Dataset, defective: Pixels) -> dict[str, float]:
    """Return the AUROC of the trivial scores, fitted to all 300 reference images."""
    sets = [np.concatenate([dataset.statistics, dataset.calibration]), dataset.test, defective]
    values = [np.array([one.log_likelihood for one in scorer.score(np.ascontiguousarray(part))]) for part in sets]
    fitted = Baselines.fit(sets[0], values[0])
    normal, strange = (fitted(part, found) for part, found in zip(sets[1:], values[1:], strict=True))
    return {name: separation(normal[:, i], strange[:, i]).auroc for i, name in enumerate(NAMES)}


def heat_maps(scorer: Scorer, defective: Pixels, found: Evidence) -> bytes:
    """Return a PNG of ten defective cells, as strange as can be to rather usual, and their maps below."""
    order = np.argsort(-scorer.calibration.typical_statistics(found))
    chosen = defective[order[np.linspace(0, len(order) // 2, SHOWN).astype(int)]]
    maps = scorer.heat_maps(np.ascontiguousarray(chosen))
    above = [enlarged(np.repeat(image.transpose(1, 2, 0), 3, axis=2)) for image in chosen]
    threshold = scorer.calibration.map_threshold(scorer.calibration.default_alpha)
    below = [
        np.asarray(Image.open(io.BytesIO(overlay(image, one.anomaly, threshold))))
        for image, one in zip(chosen, maps, strict=True)
    ]
    sheet = np.concatenate([np.concatenate(above, 1), np.concatenate(below, 1)], 0)
    buffer = io.BytesIO()
    Image.fromarray(sheet).resize((sheet.shape[1] // 2, sheet.shape[0] // 2)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
