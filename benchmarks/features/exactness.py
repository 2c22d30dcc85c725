"""Exactness of verdicts by features: against a float64 reference, and the same image in other company."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.features.cells import SolarCells
from benchmarks.features.common import FeatureRun
from benchmarks.features.fitted import fitted_model
from benchmarks.features.trained import trained_on_split
from snf_models.anomaly.calibrate import collect_evidence
from snf_models.features.extractor import TorchExtractor
from snf_models.flows.architecture import FeatureArchitecture
from snf_models.scorer import Scorer, load_model
from snf_models.scoring.options import EngineName, EngineOptions
from snf_models.scoring.torch_engine import TorchFeatureEngine
from snf_runtime.images.preprocessing import Pixels
from snf_runtime.scoring.feature_density import FeatureDensity

NAME = "exactness"
ALPHAS = (0.01, 0.05)
IMAGES = 1000
COMPANY = 200
"""Images that are scored alone, in batches, in another order and in another process."""
Array = NDArray[np.float64]


def measure(run: FeatureRun) -> None:
    """Measure seed 0, print, write."""
    cells = SolarCells.load(run)
    split = cells.split(0)
    scorer, path = trained_on_split(run, split)
    images = other_images(run, np.concatenate([split.test, cells.defective]))
    statistics, p = judged(scorer, images)
    looked_up = fitted_model(run, cells.table, split.train, (split.statistics, split.calibration))
    known = np.concatenate([split.test, cells.defective])[: len(images)]
    evidence = looked_up.evidence(known)
    document = {
        "engine": scorer.density.engine_name,
        "images": len(images),
        **against_reference(run, scorer, images, statistics, p),
        "same_image": company(run, scorer, path, images[: run.some(COMPANY, 12)]),
        "looked_up": {
            "images": len(known),
            "largest_difference": float(
                np.abs(looked_up.calibration.typical_statistics(evidence) - statistics[: len(known)]).max()
            ),
            "other_p_values": int((looked_up.calibration.p_values(evidence) != p[: len(known)]).sum()),
            "largest_difference_of_p": float(np.abs(looked_up.calibration.p_values(evidence) - p[: len(known)]).max()),
        },
    }
    run.write(NAME, document, report(document))
    print(report(document))


def other_images(run: FeatureRun, certain: Pixels) -> Pixels:
    """Return test cells and, to make them a thousand, cells that are perhaps defective."""
    count = run.some(IMAGES, 30)
    with np.load(run.data_dir / "elpv64.npz", allow_pickle=False) as arrays:
        every = next(arrays[name] for name in arrays.files if arrays[name].ndim == 3)[:, None]
        unsure = every[(arrays["defect_probability"] > 0) & (arrays["defect_probability"] < 1)]
    return np.ascontiguousarray(np.concatenate([certain, unsure])[:count])


def judged(scorer: Scorer, images: Pixels) -> tuple[Array, Array]:
    """Return T and the p-value of every image."""
    verdicts = [judgement.verdict for judgement in scorer.detect(images)]
    assert all(verdict is not None for verdict in verdicts)
    return tuple(  # type: ignore[return-value]
        np.array([getattr(verdict, name) for verdict in verdicts]) for name in ("statistic", "p_value")
    )


def against_reference(run: FeatureRun, scorer: Scorer, images: Pixels, statistics: Array, p: Array) -> dict[str, Any]:
    """Return the differences of T and of verdicts to backbone and flow in float64 by torch."""
    architecture = scorer.manifest.architecture
    assert isinstance(architecture, FeatureArchitecture)
    assert isinstance(scorer.density, FeatureDensity)
    weights = run.store.arrays(run.backbone)
    extractor = TorchExtractor(run.backbone, weights, architecture.input_size, torch.float64)
    engine = TorchFeatureEngine(extractor, scorer.density.flows, run.threads)
    exact = FeatureDensity(
        engine, scorer.density.flows, scorer.log_det_digest, architecture.image_shape, architecture.input_size
    )
    evidence = collect_evidence(exact, images).evidence
    reference = scorer.calibration.typical_statistics(evidence)
    exact_p = scorer.calibration.p_values(evidence)
    ordered = scorer.calibration.folds[0].ordered
    spread = float(np.subtract(*np.quantile(ordered, [0.75, 0.25])))
    differences = np.abs(statistics - reference)
    flips = []
    for alpha in ALPHAS:
        for i in np.flatnonzero((p <= alpha) != (exact_p <= alpha)).tolist():
            nearest = float(np.abs(ordered - reference[i]).min())
            flips.append(
                {"alpha": alpha, "image": i, "distance_nats": nearest, "difference_nats": float(differences[i])}
            )
    return {
        "iqr_of_calibration": spread,
        "largest_difference": float(differences.max()),
        "median_difference": float(np.median(differences)),
        "largest_of_iqr": float(differences.max()) / spread,
        "other_p_values": int((p != exact_p).sum()),
        "flipped_verdicts": flips,
    }


def company(run: FeatureRun, scorer: Scorer, path: Path, images: Pixels) -> dict[str, Any]:
    """Return how many images have the same bits of T, p and log-likelihood alone, in any order, and after a restart."""
    batch = bits(scorer, images)
    alone = np.concatenate([bits(scorer, images[i : i + 1]) for i in range(len(images))])
    order = np.random.default_rng(0).permutation(len(images))
    shuffled = np.empty_like(batch)
    shuffled[order] = bits(scorer, np.ascontiguousarray(images[order]))
    again = np.concatenate([bits(scorer, images[i : i + 7]) for i in range(0, len(images), 7)])
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder) / "images.npy", Path(folder) / "bits.npy"
        np.save(given, images)
        arguments = [str(path), str(given), str(answer), run.engine, str(run.threads), str(run.options.cache)]
        subprocess.run([sys.executable, "-m", "benchmarks.features.exactness", *arguments], check=True)
        restarted = np.load(answer)
    others = {"alone": alone, "in sevens": again, "another order": shuffled, "another process": restarted}
    return {"images": len(images)} | {name: int((of == batch).all(1).sum()) for name, of in others.items()}


def bits(scorer: Scorer, images: Pixels) -> Array:
    """Return log-likelihood, T and p-value of every image, ``(N, 3)``."""
    rows = []
    for judgement in scorer.detect(images):
        assert judgement.verdict is not None
        likelihood = judgement.likelihood.log_likelihood  # type: ignore[union-attr]
        rows.append([likelihood, judgement.verdict.statistic, judgement.verdict.p_value])
    return np.array(rows)


def report(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    same, looked_up = document["same_image"], document["looked_up"]
    flips = document["flipped_verdicts"]
    lines = [
        "# Exactness of verdicts by features",
        "",
        f"Solar cells, seed 0, {document['images']:,} images, engine {document['engine']} in float32.",
        "",
        "| what | value |",
        "|---|---|",
        f"| T against float64, largest difference | {document['largest_difference']:.2e} nats |",
        f"| interquartile range of T over calibration images | {document['iqr_of_calibration']:.3f} nats |",
        f"| largest difference / interquartile range | {document['largest_of_iqr']:.2e} |",
        f"| p-values that differ | {document['other_p_values']} |",
        f"| flipped verdicts at 1 % and 5 % | {len(flips)} |",
    ]
    lines += [f"| equal to the bit: {name} | {count} of {same['images']} |" for name, count in list(same.items())[1:]]
    lines += [
        f"| features looked up against the whole product: p-values that differ | {looked_up['other_p_values']} of "
        f"{looked_up['images']} |",
        f"| the same, largest difference of T | {looked_up['largest_difference']:.2e} nats |",
    ]
    if flips:
        lines += [
            "",
            "| alpha | image | distance of T to the nearest calibration image | difference of T |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {flip['alpha']:.0%} | {flip['image']} | {flip['distance_nats']:.2e} | {flip['difference_nats']:.2e} |"
            for flip in flips
        ]
    return "\n".join(lines) + "\n"


def score_again() -> None:
    """Score images in this process, for the comparison with the one that started it."""
    path, given, answer, engine, threads, cache = sys.argv[1:]
    options = EngineOptions(cast(EngineName, engine), threads=int(threads), cache=Path(cache))
    np.save(answer, bits(load_model(Path(path), options=options), np.load(given)))


if __name__ == "__main__":
    score_again()
