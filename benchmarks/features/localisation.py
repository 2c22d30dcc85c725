"""Localisation: our pixel AUROC, AUPRO and AUPIMO against those of ``anomalib``, and how often regions hit defects.

Defects with masks are planted into real images: scratches, spots and patches of noise. The maps are those of a model of
features, fitted to functional solar cells, and of the pixel models of clothes and photographs. ``anomalib`` gets the
same maps in an environment of its own, ``var/peers/anomalib``, which the first run makes.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from benchmarks.features.cells import cells
from benchmarks.features.common import FeatureRun
from benchmarks.features.patchcore import ANOMALIB
from benchmarks.features.trained import trained_scorer
from benchmarks.speed.peers import PeerUnavailable, peer_environment
from snf_models.anomaly.exchangeability import false_alarm_interval
from snf_models.datasets import load_dataset
from snf_models.evaluation.localisation import FOUND, PIMO_RANGE, Mask, aupimo, localise
from snf_models.registry.registry import Registry
from snf_models.scorer import Scorer, load_model
from snf_models.scoring.options import EngineOptions
from snf_runtime.anomaly.calibration import threshold
from snf_runtime.anomaly.maps import SMOOTHING, of_pixels
from snf_runtime.images.preprocessing import Pixels

NAME = "localisation"
SIDE = Path(__file__).parent / "anomalib_metrics.py"
TRAIN, NORMAL, STRANGE, CALIBRATION = 600, 300, 90, 500
LEVELS = 2**15
"""Whole numbers to which maps are rounded, so that ``anomalib`` has a threshold at each value."""
TOLERANCE = 1e-6
ALPHA = 0.05
SMOOTHINGS = (0.5, SMOOTHING, 1.5, 3.0)
KINDS = ("scratch", "spot", "noise")
Maps = NDArray[np.float64]


@dataclass(frozen=True)
class Planted:
    """Images with defects, uint8 ``(N, C, H, W)``, their masks ``(N, H, W)``, and the kind of each defect."""

    images: Pixels
    masks: NDArray[np.bool_]
    kinds: Sequence[str]


def plant(images: Pixels, seed: int = 0) -> Planted:
    """Put a defect into each image, the kinds in turn."""
    random = np.random.default_rng(seed)
    changed, masks, kinds = images.copy(), np.zeros((len(images), *images.shape[2:]), dtype=bool), []
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
        kinds.append(kind)
    return Planted(changed, masks, kinds)


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
    photographs = load_dataset("cifar10", run.data_dir).test[-(CALIBRATION + 3 * normal) :]
    document = {
        "normal_images": normal,
        "images_with_defects": run.some(STRANGE, 30),
        "tolerance": TOLERANCE,
        "anomalib": ANOMALIB.versions(),
        "models": rows,
        "smoothing": _smoothings(run, shipped, photographs, normal),
    }
    print(report(document))
    run.write(NAME, document, report(document))
    worst = max(row["largest_difference"] for row in rows)
    if worst > TOLERANCE:
        raise ValueError(f"expected metrics within {TOLERANCE} of those of anomalib, got a difference of {worst:.2g}")


def _compared(run: FeatureRun, label: str, scorer: Scorer, images: Pixels) -> dict[str, Any]:
    normal, strange = run.some(NORMAL, 140), run.some(STRANGE, 30)
    planted = plant(images[normal : normal + strange])
    sound, defective = (_maps(scorer, of) for of in (images[:normal], planted.images))
    raw = np.concatenate([sound, defective])
    masks = np.concatenate([np.zeros(sound.shape, dtype=bool), planted.masks])
    unit = ((raw - raw.min()) / (raw.max() - raw.min())).astype(np.float32)
    # Normal values become 0 to LEVELS - 1; what is beyond them keeps its order.
    low, high = float(sound.min()), float(sound.max())
    whole = np.round((raw - low) / (high - low) * (LEVELS - 1)).clip(-LEVELS, 100 * LEVELS).astype(np.float32)
    bounds = _attained(whole[:normal])
    ours = localise(*_split(unit, normal), list(planted.masks))
    pimo = aupimo(*_split(whole, normal), list(planted.masks), bounds)
    real = aupimo(*_split(raw.astype(np.float32), normal), list(planted.masks))
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


def _smoothings(run: FeatureRun, scorer: Scorer, images: Pixels, count: int) -> list[dict[str, float]]:
    """Return how often regions of maps of pixels hit defects, by the filter; thresholds from other images."""
    calibration, normal, other = np.split(images, [run.some(CALIBRATION, 100), run.some(CALIBRATION, 100) + count])
    planted = plant(other[:count], 1)
    z = [np.stack([heat_map.z for heat_map in scorer.heat_maps(of)]) for of in (calibration, normal, planted.images)]
    rows = []
    for deviation in SMOOTHINGS:
        smooth = [
            of_pixels(of) if deviation == SMOOTHING else gaussian_filter(-of, (0, deviation, deviation)) for of in z
        ]
        limit = threshold(np.sort(smooth[0].max((1, 2))), ALPHA)
        hits = np.array([_hit(of_image, mask, limit) for of_image, mask in zip(smooth[2], planted.masks, strict=True)])
        row = {"deviation": deviation, "false_alarms": float((smooth[1].max((1, 2)) >= limit).mean())}
        kinds = np.array(planted.kinds)
        rows.append(row | {kind: float(hits[kinds == kind].mean()) for kind in KINDS})
    low, high = false_alarm_interval(len(calibration), count, ALPHA)
    return [row | {"low": low, "high": high} for row in rows]


def _hit(of_image: Maps, mask: Mask, limit: float) -> bool:
    return bool((of_image[mask] >= limit).any())


def report(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Localisation",
        "",
        f"{document['images_with_defects']} images with planted scratches, spots and patches of noise, and "
        f"{document['normal_images']} normal ones. Ours beside anomalib {document['anomalib']['anomalib']} on the same "
        "maps: pixel AUROC and AUPRO of maps scaled to [0, 1] in float32, where anomalib has a threshold at every "
        "value; AUPIMO of each image, of maps rounded to whole numbers and with bounds that thresholds attain. Only "
        "then are its equally spaced thresholds exact: the column beside ours shows what they give otherwise.",
        "",
        "| maps | pixel AUROC | AUPRO | AUPIMO | the same by anomalib, 20,000 thresholds | difference: AUROC | AUPRO | "
        "AUPIMO, largest of an image |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in document["models"]:
        differences = row["differences"]
        lines.append(
            f"| {row['model']} | {row['pixel_auroc']:.4f} | {row['aupro']:.4f} | {row['aupimo']:.4f} | "
            f"{row['aupimo_by_anomalib_with_20000_thresholds']:.4f} | {differences['pixel_auroc']:.1e} | "
            f"{differences['aupro']:.1e} | {differences['aupimo']:.1e} |"
        )
    lines += [
        "",
        f"The filter of maps of pixels, on photographs at alpha = {ALPHA:g}: normal images with a region, and defects "
        "that a region overlaps.",
        "",
        "| standard deviation, pixels | normal images | " + " | ".join(KINDS) + " |",
        "|---|---|" + "---|" * len(KINDS),
    ]
    for row in document["smoothing"]:
        shares = " | ".join(f"{100 * row[kind]:.0f} %" for kind in KINDS)
        lines.append(f"| {row['deviation']:g} | {100 * row['false_alarms']:.1f} % | {shares} |")
    low, high = (100 * document["smoothing"][0][end] for end in ("low", "high"))
    lines += ["", f"The 99 % interval for normal images is {low:.1f} to {high:.1f} %."]
    return "\n".join(lines) + "\n"
