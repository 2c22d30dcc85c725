"""Localisation: our pixel AUROC, AUPRO and AUPIMO against those of ``anomalib``.

Defects with masks are planted into real images: scratches, spots and patches of noise. The maps are those of a model of
features, fitted to functional solar cells, and of the pixel models of clothes and photographs. ``anomalib`` gets the
same maps in an environment of its own, ``var/peers/anomalib``, which the first run makes.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import table
from benchmarks.features.cells import cells
from benchmarks.features.common import FeatureRun
from benchmarks.features.fitted import trained_scorer
from benchmarks.speed.peers import Environment, PeerUnavailable, peer_environment
from snf_models.datasets import load_dataset
from snf_models.evaluation.localisation import FOUND, PIMO_RANGE, aupimo, localise
from snf_models.registry.registry import Registry
from snf_models.scorer import Scorer, load_model
from snf_models.scoring.options import EngineOptions
from snf_runtime.images.preprocessing import Pixels

NAME = "localisation"
ANOMALIB = Environment("anomalib", ("anomalib>=2.2", "torch", "torchvision"), ("anomalib.metrics",))
SIDE = Path(__file__).parent / "anomalib_metrics.py"
TRAIN, NORMAL, STRANGE = 600, 300, 90
LEVELS = 2**15
"""Whole numbers to which maps are rounded, so that ``anomalib`` has a threshold at each value."""
TOLERANCE = 1e-6
KINDS = ("scratch", "spot", "noise")
Maps = NDArray[np.float64]


def plant(images: Pixels) -> tuple[Pixels, NDArray[np.bool_]]:
    """Return copies of images ``(N, C, H, W)`` with a defect each, the kinds in turn, and its masks ``(N, H, W)``."""
    random = np.random.default_rng(0)
    changed, masks = images.copy(), np.zeros((len(images), *images.shape[2:]), dtype=bool)
    side = min(images.shape[2:])
    size = max(4, side // 6)
    for number, (image, mask) in enumerate(zip(changed, masks, strict=True)):
        kind = KINDS[number % len(KINDS)]
        top, left = random.integers(2, side - size - 2, 2)
        if kind == "scratch":
            along = np.arange(side // 3)
            mask[(top // 2 + along), np.minimum(left // 2 + along, side - 1)] = True
            image[:, mask] = np.where(image[:, mask] > 127, image[:, mask] - 100, image[:, mask] + 100)
        elif kind == "spot":
            rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
            mask[:] = (rows - top - size / 2) ** 2 + (columns - left - size / 2) ** 2 <= (size / 2) ** 2
            image[:, mask] = np.where(image[:, mask] > 127, image[:, mask] // 3, 255 - image[:, mask] // 3)
        else:
            mask[top : top + size, left : left + size] = True
            image[:, mask] = random.integers(0, 256, image[:, mask].shape)
    return changed, masks


def measure(run: FeatureRun) -> None:
    """Measure all models, print, write. Raises ``PeerUnavailable`` where ``anomalib`` cannot run."""
    functional, _ = cells(run.data_dir / "elpv64.npz")
    functional = functional[np.random.default_rng(0).permutation(len(functional))]
    train, normal = run.some(TRAIN, 100), run.some(NORMAL, 140)
    scorer = trained_scorer(run, "elpv-localisation", functional[:train])
    rows = [_compared(run, "solar cells, features", scorer, functional[train:])]
    for name, data, label in (
        ("fashion-snf-glow", "fashion-mnist", "clothes, pixels"),
        ("cifar10-snf-glow", "cifar10", "photographs, pixels"),
    ):
        shipped = load_model(
            Registry(run.folder / "none").resolve(name).path, options=EngineOptions(threads=run.threads)
        )
        rows.append(_compared(run, label, shipped, load_dataset(data, run.data_dir).test))
    document = {
        "normal_images": normal,
        "images_with_defects": run.some(STRANGE, 30),
        "tolerance": TOLERANCE,
        "anomalib": ANOMALIB.versions(),
        "models": rows,
    }
    print(report(document))
    run.write(NAME, document, report(document))
    worst = max(row["largest_difference"] for row in rows)
    if worst > TOLERANCE:
        raise ValueError(f"expected metrics within {TOLERANCE} of those of anomalib, got a difference of {worst:.2g}")


def _compared(run: FeatureRun, label: str, scorer: Scorer, images: Pixels) -> dict[str, Any]:
    normal, strange = run.some(NORMAL, 140), run.some(STRANGE, 30)
    changed, of_defects = plant(images[normal : normal + strange])
    sound, defective = (_maps(scorer, of) for of in (images[:normal], changed))
    raw = np.concatenate([sound, defective])
    masks = np.concatenate([np.zeros(sound.shape, dtype=bool), of_defects])
    unit = ((raw - raw.min()) / (raw.max() - raw.min())).astype(np.float32)
    # Normal values become 0 to LEVELS - 1; what is beyond them keeps its order.
    low, high = float(sound.min()), float(sound.max())
    whole = np.round((raw - low) / (high - low) * (LEVELS - 1)).clip(-LEVELS, 100 * LEVELS).astype(np.float32)
    bounds = _attained(whole[:normal])
    ours = localise(*_split(unit, normal), list(of_defects))
    pimo = aupimo(*_split(whole, normal), list(of_defects), bounds)
    real = aupimo(*_split(raw.astype(np.float32), normal), list(of_defects))
    assert pimo is not None
    assert real is not None
    theirs = _anomalib(run, unit=unit, whole=whole, raw=raw.astype(np.float32), masks=masks, bounds=np.array(bounds))
    differences = {
        "pixel_auroc": abs(ours.pixel_auroc - theirs["pixel_auroc"]),
        "aupro": abs(ours.aupro - theirs["aupro"]),
        "aupimo": float(np.abs(pimo - np.array(theirs["aupimo"])).max()),
    }
    return {
        "model": label,
        "pixel_auroc": ours.pixel_auroc,
        "aupro": ours.aupro,
        "aupimo": float(real.mean()),
        "aupimo_found": float((real >= FOUND).mean()),
        "aupimo_by_anomalib_with_20000_thresholds": theirs["aupimo_20000_thresholds"],
        "exact_bounds": bounds,
        "exact_thresholds": theirs["levels"],
        "differences": differences,
        "largest_difference": max(differences.values()),
    }


def _maps(scorer: Scorer, images: Pixels) -> Maps:
    return np.stack([heat_map.anomaly for heat_map in scorer.heat_maps(images)])


def _split(maps: NDArray[np.float32], normal: int) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    return list(maps[:normal]), list(maps[normal:])


def _attained(normal: NDArray[np.float32]) -> tuple[float, float]:
    """Return the false-positive rates next to the range of AUPIMO that thresholds attain exactly."""
    values, counts = np.unique(normal, return_counts=True)
    rates = np.cumsum(counts[::-1]) / normal.size
    assert len(values) > 1
    low, high = (float(rates[np.abs(rates - rate).argmin()]) for rate in PIMO_RANGE)
    return low, high


def _anomalib(run: FeatureRun, **arrays: NDArray[Any]) -> dict[str, Any]:
    python = ANOMALIB.ready()
    with tempfile.TemporaryDirectory(prefix="snf-metrics-") as folder:
        given, answer = Path(folder) / "given.npz", Path(folder) / "answer.json"
        np.savez(given, **arrays)
        done = subprocess.run(
            [str(python), str(SIDE), str(given), str(answer)],
            capture_output=True,
            text=True,
            env=peer_environment(Path(folder), run.threads),
            check=False,
        )
        if done.returncode:
            raise PeerUnavailable(" ".join(done.stderr.split())[-300:])
        found: dict[str, Any] = json.loads(answer.read_text())
        return found


def report(document: dict[str, Any]) -> str:
    models = [
        (
            row["model"],
            *(f"{row[name]:.4f}" for name in ("pixel_auroc", "aupro", "aupimo")),
            f"{row['aupimo_by_anomalib_with_20000_thresholds']:.4f}",
            *(f"{row['differences'][name]:.1e}" for name in ("pixel_auroc", "aupro", "aupimo")),
        )
        for row in document["models"]
    ]
    heads = ("maps", "pixel AUROC", "AUPRO", "AUPIMO", "the same by anomalib, 20,000 thresholds", "difference: AUROC")
    lines = [
        "# Localisation",
        "",
        f"{document['images_with_defects']} images with planted scratches, spots and patches of noise, and "
        f"{document['normal_images']} normal ones. Ours beside anomalib {document['anomalib']['anomalib']} on the same "
        "maps: pixel AUROC and AUPRO of maps scaled to [0, 1] in float32, where anomalib has a threshold at every "
        "value; AUPIMO of each image, of maps rounded to whole numbers and with bounds that thresholds attain. Only "
        "then are its equally spaced thresholds exact: the column beside ours shows what they give otherwise.",
        "",
        *table((*heads, "AUPRO", "AUPIMO, largest of an image"), models),
    ]
    return "\n".join(lines) + "\n"
