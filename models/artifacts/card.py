"""The model card: a Markdown page about a model for its users, generated from the manifest."""

from __future__ import annotations

from models.artifacts.manifest import Manifest


def model_card(manifest: Manifest) -> str:
    """Return the page in Markdown that describes a model: test score, training data, settings, calibration, limits."""
    training, evaluation, architecture = manifest.training, manifest.evaluation, manifest.architecture
    config = "\n".join(f"| {key} | {value} |" for key, value in training.config.items())
    test = (
        f"{evaluation.test_bits_per_dim:.4f} bits/dim ({evaluation.test_nats:.1f} nats an image, "
        f"{evaluation.test_images} images)"
        if evaluation.test_bits_per_dim is not None and evaluation.test_nats is not None
        else "no test images"
    )
    # No vertical bars: they would split the cells of the table.
    learned = (
        f"largest norm of I - R W over the layers {evaluation.reconstruction_error:.2e}"
        if evaluation.reconstruction_error is not None
        else "none: exact gradient, exact inverse only"
    )
    return f"""# Model card

A normalizing flow (Self Normalizing Flows, Keller et al., ICML 2021) that gives the exact log-density of an 8-bit
image of {architecture.channels}x{architecture.height}x{architecture.width} (channels x height x width).

| | |
|---|---|
| test set | {test} |
| validation | {evaluation.validation_bits_per_dim:.4f} bits/dim |
| preset | {training.preset}: {architecture.summary()} |
| pixel transform | {architecture.pixel_transform} |
| learned inverse | {learned} |
| trained on | {training.dataset}, {training.train_images} images, SHA-256 {training.dataset_digest[:16]} |
| images | {_images(manifest)} |
| split | {_split(manifest)} |
| training | {training.steps} steps, {training.seconds / 60:.1f} minutes |
| weights kept | the average of step {training.best_step}, best on validation |
| arithmetic in training | coupling nets {training.precision}; scores are float32 nets with float64 sums |
| commit | {training.started_from_commit or "not a git checkout"} |
| created | {manifest.created.isoformat()} |

Bits/dim: one uniform dequantisation draw an image, keyed by its content, so the figure is reproducible to the digit.

![64 samples at temperature 1](samples.png)

## Recipe

| setting | value |
|---|---|
{config}

## Calibration

{_calibration(manifest)}

## Limits

- The p-value holds for images drawn like the calibration images: other cameras, lighting or preprocessing need a
  calibration of their own.
- It detects differences in statistics of the whole image, and in regions against their surroundings: wrong parts,
  light, focus, noise, missing or foreign patches. Finer faults, and other objects with the same texture, are hard to
  detect by a density of pixels.
- It is a small model of small images: it judges pixels, not meaning.
- The log-likelihood is a density over [0, 256)^D, not a probability, and compares only between images of one size.
"""


def _calibration(manifest: Manifest) -> str:
    calibration = manifest.calibration
    how = f"for the {calibration.engine} engine in {calibration.precision}, on {calibration.dataset}"
    smallest = f"smallest attainable {calibration.smallest_p:.2g}"
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
    policy = f"other sizes: {preprocessing.fit}, other colours: {preprocessing.colour}"
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
    return f"{split.parts} {split.rule}{seed}: {split.reason}"
