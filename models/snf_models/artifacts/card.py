from __future__ import annotations

from snf_models.artifacts.manifest import Evaluation, FeatureFitRecord, FeatureStepsRecord, Manifest, in_words
from snf_models.datasets.store import LICENCES
from snf_models.flows.architecture import (
    Architecture,
    FeatureArchitecture,
    HybridArchitecture,
    features_of,
)
from snf_models.texts import value_text

SIZES = {
    "exact": "refused",
    "crop": "resized and cropped to the middle",
    "stretch": "stretched",
    "pad": "resized and padded with black",
}
COLOURS = {"exact": "refused", "grey": "converted to grey", "rgb": "converted to colour"}


def model_card(manifest: Manifest) -> str:
    """Return a Markdown page that describes a model for its users."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in _facts(manifest).items())
    config = "\n".join(f"| {key} | {value_text(value)} |" for key, value in manifest.training.config.items())
    limits = "\n".join(_limits(manifest.architecture))
    unfit = f"\n**This model is unfit and does not become live by itself: {in_words(manifest.unfit)}.**\n"
    return f"""# Model card
{unfit if manifest.unfit else ""}
{_introduction(manifest.architecture)}

| | |
|---|---|
{rows}

{_scores(manifest.architecture)}

## Recipe

| setting | value |
|---|---|
{config}

## Calibration

{_calibration(manifest)}

## Limits

{limits}
"""


def _introduction(architecture: Architecture) -> str:
    shape = f"image of {architecture.channels}x{architecture.height}x{architecture.width} (channels x height x width)."
    pixels = "A normalizing flow (Self Normalizing Flows, Keller et al., ICML 2021) that gives the exact log-density of"
    features = features_of(architecture)
    if features is None:
        return f"{pixels} an 8-bit\n{shape}"
    if architecture.kind == "density":
        return (
            f"{pixels} an 8-bit\n{shape} A second flow gives the density of the features that the frozen network\n"
            f"{features.backbone} sees in the image. The verdict uses both, the log-likelihood is that of the pixels."
        )
    return (
        f"{pixels} the\nfeatures that the frozen network {features.backbone} sees in an 8-bit\n{shape}\n"
        "Its linear layers are fitted in closed form."
    )


def _facts(manifest: Manifest) -> dict[str, str]:
    training, evaluation, architecture = manifest.training, manifest.evaluation, manifest.architecture
    features = features_of(architecture)
    # No vertical bars: they would split the cells of the table.
    learned = (
        f"largest norm of I - R W over the layers {evaluation.reconstruction_error:.2e}"
        if evaluation.reconstruction_error is not None
        else "none: exact gradient, exact inverse only"
    )
    facts = {
        "test set": _test(evaluation),
        "validation": _validation(evaluation),
        "fit to serve": "not checked"
        if manifest.fitness is None
        else f"{'no' if manifest.unfit else 'yes'}: {in_words(manifest.fitness.checks)}",
        "preset": f"{training.preset}: {architecture.summary()}",
    }
    if features is not None:
        height, width = features.input_size
        facts["backbone"] = (
            f"{features.backbone}, digest {features.backbone_sha256[:16]}; images are enlarged to {height}x{width}"
        )
    pixels = architecture.pixels if isinstance(architecture, HybridArchitecture) else architecture
    if not isinstance(pixels, FeatureArchitecture):
        facts["pixel transform"] = pixels.pixel_transform
    facts |= {
        "learned inverse": learned,
        "trained on": f"{training.dataset}, {training.train_images} images, SHA-256 {training.dataset_digest[:16]}",
        "licence of the images": LICENCES.get(training.dataset, "not recorded"),
        "images": _images(manifest),
        "split": _split(manifest),
    }
    if training.feature_fit is not None:
        facts["grid of the features"] = _fit(training.feature_fit)
        if training.feature_fit.steps is not None:
            facts["Glow steps over features"] = _glow_steps(training.feature_fit.steps)
    if isinstance(pixels, FeatureArchitecture):
        facts["training"] = f"fitted in closed form, {training.seconds:.0f} seconds"
    else:
        facts |= {
            "training": f"{training.steps} steps, {training.seconds / 60:.1f} minutes",
            "weights kept": f"the average of step {training.best_step}, best on validation",
            "arithmetic in training": f"coupling nets {training.precision}; scores are float32 nets with float64 sums",
        }
    return facts | {
        "commit": training.started_from_commit or "not a git checkout",
        "created": f"{manifest.created:%Y-%m-%d %H:%M} UTC",
    }


def _test(evaluation: Evaluation) -> str:
    if evaluation.test_nats is None:
        return "no test images"
    if evaluation.test_bits_per_dim is None:
        return f"mean log-likelihood {-evaluation.test_nats:.1f} nats ({evaluation.test_images} images)"
    return (
        f"{evaluation.test_bits_per_dim:.4f} bits/dim ({evaluation.test_nats:.1f} nats an image, "
        f"{evaluation.test_images} images)"
    )


def _validation(evaluation: Evaluation) -> str:
    if evaluation.validation_bits_per_dim is not None:
        return f"{evaluation.validation_bits_per_dim:.4f} bits/dim"
    if evaluation.validation_nats is not None:
        return f"mean log-likelihood {-evaluation.validation_nats:.1f} nats"
    return "none"


def _fit(record: FeatureFitRecord) -> str:
    best = record.grids[0]
    repeated = f"; the fit is repeated without each of {record.fits - 1} folds" if record.fits > 1 else ""
    return (
        f"{best.grid}x{best.grid}, shrinkage {best.shrinkage:g} of covariances and {best.mean_shrinkage:g} of means, "
        f"the best of {len(record.grids)} grids by held-out log-likelihood{repeated}"
    )


def _glow_steps(record: FeatureStepsRecord) -> str:
    return (
        f"{record.steps} {'kept' if record.kept else 'tried and left out'}: {record.held_out_images} held-out images "
        f"became likelier by {record.gain:.1f} nats (standard error {record.standard_error:.1f})"
    )


def _scores(architecture: Architecture) -> str:
    """Return a paragraph on how to read the scores, and a picture of samples where the model has any."""
    if architecture.kind == "feature_density":
        return (
            "Nats: the log-density over the space of the features, summed over all places, which are taken as "
            "independent.\nIt has no bits/dim, and there are no samples: features have no way back to pixels."
        )
    return (
        "Bits/dim: one uniform dequantisation draw an image, keyed by its content, so the figure is reproducible to "
        "the digit.\n\n![64 samples at temperature 1](samples.png)"
    )


def _limits(architecture: Architecture) -> list[str]:
    features = features_of(architecture)
    lines = [
        "- The p-value holds for images drawn like the calibration images: other cameras, lighting or preprocessing "
        "need a\n  calibration of their own."
    ]
    if features is None:
        lines += [
            "- It detects differences in statistics of the whole image, and in regions against their surroundings: "
            "wrong parts,\n  light, focus, noise, missing or foreign patches. Finer faults, and other objects with the "
            "same texture, are hard to\n  detect by a density of pixels.",
            "- It is a small model of small images: it judges pixels, not meaning.",
        ]
    else:
        if architecture.kind == "density":
            lines.append(
                "- It detects differences in statistics of the whole image, and in regions against their surroundings: "
                "wrong parts,\n  light, focus, noise, missing or foreign patches."
            )
        lines.append(
            f"- It detects places whose features are unlike those of normal images at the same place, so images must "
            f"be\n  aligned. It sees what {features.backbone} sees: a fault much smaller than one of the "
            f"{features.rows}x{features.columns} places may be missed."
        )
    if architecture.kind == "feature_density":
        lines.append(
            "- The log-likelihood is a density over the features, not over pixels, and not a probability. It compares "
            "only between\n  images under this model."
        )
    else:
        lines.append(
            "- The log-likelihood is a density over [0, 256)^D, not a probability, and compares only between images of "
            "one size."
        )
    return lines


def _calibration(manifest: Manifest) -> str:
    calibration = manifest.calibration
    how = f"for the {calibration.engine} engine in {calibration.precision}, on {calibration.dataset}"
    smallest = f"smallest attainable {calibration.smallest_p:.2g}"
    if calibration.copies:
        smallest += f"; {calibration.copies} more are copies, and a group of copies gives one rank"
    if calibration.tiles is not None:
        smallest += f"; for images of {calibration.tiles[0]} to {calibration.tiles[1]} tiles"
    if calibration.folds > 1:
        return (
            f"p-values are cross-conformal over {calibration.calibration_images} held-out images ({smallest}) in\n"
            f"{calibration.folds} folds, each judged by statistics fitted to the other folds; {how}."
        )
    return (
        f"p-values are conformal over {calibration.calibration_images} held-out images ({smallest});\n"
        f"the statistics were fitted to {calibration.statistics_images} others; {how}."
    )


def _images(manifest: Manifest) -> str:
    preprocessing, provenance = manifest.preprocessing, manifest.training.provenance
    sizes_kept = f"any size, scored in tiles of {preprocessing.height}x{preprocessing.width}"
    policy = sizes_kept if preprocessing.tiled else f"other sizes: {SIZES[preprocessing.fit]}"
    policy += f", other colours: {COLOURS[preprocessing.colour]}"
    if provenance is None or not provenance.formats:
        return policy
    sizes = ["{}x{}".format(*size) for size in (provenance.smallest, provenance.largest)]
    formats = ", ".join(f"{count} {name}" for name, count in sorted(provenance.formats.items()))
    converted = ", ".join(f"{count} {change}" for change, count in sorted(provenance.converted.items()))
    return (
        f"{formats}; {' to '.join(dict.fromkeys(sizes))} (width x height); {provenance.resized} resized; "
        f"converted: {converted or 'none'}; {policy}"
    )


def _split(manifest: Manifest) -> str:
    split = manifest.training.split
    if split is None:
        return "not recorded"
    seed = "" if split.seed is None else f", seed {split.seed}"
    return f"{split.parts} {split.rule.replace('-', ' ')}{seed}: {split.reason}"
