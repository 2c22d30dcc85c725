"""Images of other kinds: CIFAR-10 against SVHN and Fashion-MNIST against MNIST, by pixels, features, and both."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.features.baselines import FeatureBaselines
from benchmarks.features.common import FeatureRun
from benchmarks.features.measures import MEASURES, measured, measured_by_rank
from snf_models.anomaly.calibrate import collect_evidence
from snf_models.anomaly.reference_images import EvenlySpaced
from snf_models.anomaly.statistic_densities import fit_statistic
from snf_models.datasets import Dataset, load_dataset
from snf_models.disk import write_atomically
from snf_models.features.flows import freeze_features
from snf_models.flows.architecture import FeatureArchitecture
from snf_models.pipeline.feature_fit import fit_features
from snf_models.pipeline.presets import find_preset
from snf_models.registry.registry import ZOO
from snf_models.scorer import Scorer, load_model
from snf_models.scoring.open_density import open_extractor, open_feature_engine
from snf_runtime.anomaly.calibration import p_values
from snf_runtime.anomaly.statistics import Statistic
from snf_runtime.images.preprocessing import Pixels
from snf_runtime.scoring.evidence import Evidence, FeatureEvidence
from snf_runtime.scoring.feature_density import FeatureDensity, HybridDensity

NAME = "ood"
AGAINST = {"fashion-snf-glow": "mnist.npz", "cifar10-snf-glow": "svhn_test10k.npz"}
PARTS = ("statistics", "calibration", "test", "other")
PATCHES = 2_000
"""Training images to which the other scores are fitted."""
LOOKED_AT = (
    "The flows over pixels are those of the zoo. Grid and shrinkage are chosen by held-out likelihood inside the "
    "training part. That small images are enlarged four times at most, and that means of features at places are a "
    "statistic, was found on training images of Fashion-MNIST and MNIST, held-out training images of CIFAR-10, and on "
    "the last 700 images of SVHN. The results on the test images were seen six times on the way."
)


def measure(run: FeatureRun) -> None:
    """Measure both pairs; the row of a model replaces its earlier one."""
    document = {"models": {}, **run.known(NAME), "looked_at": LOOKED_AT}
    for name in run.extras["models"] or AGAINST:
        scorer = load_model(ZOO / name / "1", options=run.options)
        dataset = load_dataset(scorer.manifest.training.dataset, run.data_dir)
        parts = images_of(run, dataset, AGAINST[name])
        sets, about = stored_evidence(run, name, scorer, dataset, parts)
        document["models"][name] = {**about, "scores": scores_of(scorer, sets)}
        run.write(NAME, document, report(document))
        if not run.extras["skip_baselines"]:
            document["models"][name]["scores"] |= baselines(run, name, scorer, dataset, parts)
            run.write(NAME, document, report(document))
    print(report(document))


def images_of(run: FeatureRun, dataset: Dataset, other: str) -> dict[str, Pixels]:
    """Return the images of every part, those of the other dataset last."""
    with np.load(run.data_dir / other, allow_pickle=False) as arrays:
        strange = arrays["x_test"]
    strange = strange[:, None] if strange.ndim == 3 else strange.transpose(0, 3, 1, 2)
    parts = {"statistics": dataset.statistics, "calibration": dataset.calibration, "test": dataset.test}
    most = run.some(run.extras["images"], 40)
    return {name: np.ascontiguousarray(part[:most]) for name, part in (parts | {"other": strange}).items()}


def stored_evidence(
    run: FeatureRun, name: str, scorer: Scorer, dataset: Dataset, parts: dict[str, Pixels]
) -> tuple[dict[str, Evidence], dict[str, Any]]:
    """Return the evidence of a hybrid on every part, which an earlier run may have stored, and how it was fitted."""
    path = evidence_path(run, name)
    if path.exists():
        return read_evidence(path)
    console = Console(stderr=True)
    architecture = find_preset("snf-features").architecture(dataset.image_shape, "marginal", run.backbone)
    assert isinstance(architecture, FeatureArchitecture)
    size = architecture.input_size
    extractor = open_extractor(run.store, run.backbone, dataset.image_shape, size, run.options)
    train = EvenlySpaced([dataset.train], run.some(run.extras["train"], 60))

    def progress(part: str, done: int, images: int) -> None:
        if done % 1024 == 0 or done == images:
            console.print(f"{name}: {part} {done}/{images}")

    fitted = fit_features(train, extractor, architecture, progress)
    flows = freeze_features(fitted.flows)
    engine = open_feature_engine(run.store, run.backbone, architecture, flows, run.options)
    features = FeatureDensity(engine, flows, scorer.log_det_digest, dataset.image_shape, size)
    assert scorer.trained.pixels is not None
    hybrid = HybridDensity(scorer.trained.pixels, features)
    sets = {
        part: collect_evidence(
            hybrid, images, lambda done, part=part, images=images: progress(part, done, len(images))
        ).evidence
        for part, images in parts.items()
    }
    best = fitted.choices[0]
    about = {"train": len(train), "grid": best.grid, "shrinkage": best.shrinkage, "mean_shrinkage": best.mean_shrinkage}
    write_evidence(path, sets, about)
    return sets, about


def evidence_path(run: FeatureRun, name: str) -> Path:
    """Return the path of the stored evidence of a hybrid."""
    return run.folder / ("quick" if run.quick else "evidence") / f"{name}-{run.key}.npz"


def write_evidence(path: Path, sets: dict[str, Evidence], about: dict[str, Any]) -> None:
    """Store the evidence of several parts."""
    arrays: dict[str, NDArray[Any]] = {f"about.{key}": np.array(value) for key, value in about.items()}
    for part, evidence in sets.items():
        assert evidence.features is not None
        assert evidence.channels is not None
        arrays |= {f"{part}.whole": evidence.whole, f"{part}.cells": evidence.cells}
        arrays |= {f"{part}.channels": evidence.channels}
        arrays |= {f"{part}.places": evidence.features.places, f"{part}.pooled": evidence.features.pooled}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_evidence(path: Path) -> tuple[dict[str, Evidence], dict[str, Any]]:
    """Return the stored evidence by part, and how the features were fitted."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    names = dict.fromkeys(key.partition(".")[0] for key in arrays if not key.startswith("about."))
    sets = {
        part: Evidence(
            arrays[f"{part}.whole"],
            arrays[f"{part}.cells"],
            features=FeatureEvidence(arrays[f"{part}.places"], arrays[f"{part}.pooled"]),
            channels=arrays[f"{part}.channels"],
        )
        for part in names
    }
    return sets, {key.partition(".")[2]: value.item() for key, value in arrays.items() if key.startswith("about.")}


def kinds_of(evidence: Evidence) -> dict[str, Evidence]:
    """Return the evidence of a hybrid, and that of its features and of its pixels alone."""
    nothing = np.zeros((len(evidence), 0))
    return {
        "hybrid": evidence,
        "feature model": Evidence(nothing, nothing, features=evidence.features),
        "pixel model": replace(evidence, features=None),
    }


def fitted_statistic(kind: str, evidence: Evidence, names: tuple[str, ...], grid: tuple[int, int] | None) -> Statistic:
    """Return the anomaly statistic of a kind of model, fitted to evidence of normal images."""
    return fit_statistic(evidence, (), None) if kind == "feature model" else fit_statistic(evidence, names, grid)


def scores_of(scorer: Scorer, sets: dict[str, Evidence]) -> dict[str, dict[str, float]]:
    """Return the measures of hybrid, features and pixels, and of each statistic of the features."""
    found = {}
    for kind in ("hybrid", "feature model", "pixel model"):
        parts = {part: kinds_of(evidence)[kind] for part, evidence in sets.items()}
        statistic = fitted_statistic(kind, parts["statistics"], scorer.density.statistics, scorer.density.grid)
        values = {part: statistic(evidence) for part, evidence in parts.items()}
        p = [p_values([np.sort(values["calibration"])], [values[part]]) for part in ("test", "other")]
        found[kind] = measured(values["test"], values["other"], *p)
        if kind == "feature model":
            family = statistic.features
            assert family is not None
            each = [family.statistics(parts[part].features) for part in PARTS[1:]]  # type: ignore[arg-type]
            for number, label in enumerate(
                ("largest place", "highest twentieth", "means of places", "deepest features")
            ):
                found[label] = measured_by_rank(*(rows[:, number] for rows in each))
    return found


def baselines(
    run: FeatureRun, name: str, scorer: Scorer, dataset: Dataset, parts: dict[str, Pixels]
) -> dict[str, dict[str, float]]:
    """Return the measures of other scores of the same features, on at most so many images of each part."""
    shape = scorer.preprocessing.shape
    extractor = open_extractor(run.store, run.backbone, shape, run.backbone.input_size(*shape[1:]), run.options)
    train = EvenlySpaced([dataset.train], run.some(PATCHES, 60))[:]
    some = {part: images[: run.extras["baseline_images"]] for part, images in parts.items()}
    scores = FeatureBaselines.fit(train, some["statistics"], extractor, seed=0)
    sets = [scores(some[part]) for part in PARTS[1:]]
    Console(stderr=True).print(f"{name}: other scores of the same features are done")
    return {score: measured_by_rank(*(of[score] for of in sets)) for score in sets[0]}


def report(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = ["# Images of other kinds: hybrid models", "", document["looked_at"]]
    for name, row in document["models"].items():
        lines += ["", f"## {name} against {AGAINST[name].partition('.')[0]}", ""]
        lines += [
            f"Features fitted to {row['train']:,} training images: grid {row['grid']}, shrinkage {row['shrinkage']:g}, "
            f"of means {row['mean_shrinkage']:g}.",
            "",
            f"| score | {' | '.join(MEASURES)} |",
            "|---" * (1 + len(MEASURES)) + "|",
        ]
        for score, found in row["scores"].items():
            cells = [f"{found[key]:.4f}" if key == "auroc" else f"{found[key]:.2%}" for key in MEASURES]
            lines.append(f"| {score} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
