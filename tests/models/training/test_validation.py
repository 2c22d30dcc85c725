"""Validation while a flow trains: bits/dim of held-out images, and samples, which never touch or end a run."""

from __future__ import annotations

import copy
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from snf_models.datasets import Dataset
from snf_models.pipeline import loop as validation
from snf_models.pipeline.loop import Trainer, validation_bits_per_dim, write_preview
from snf_models.pipeline.presets import PRESETS
from snf_models.scorer import Scorer
from snf_models.scoring.frozen import freeze
from snf_runtime.images.codec import encode_png, image_grid
from snf_runtime.scoring.pixel_density import content_noise
from tests.models.helpers import QUICK, glow, real_images

SHAPE = (1, 16, 16)


def test_validation_is_the_mean_of_the_exact_likelihood_and_repeats() -> None:
    flow, images = glow(16), real_images(130, 16)
    frozen = freeze(flow, SHAPE)
    bits = validation_bits_per_dim(frozen, images)
    assert bits == validation_bits_per_dim(frozen, images)
    halves = [validation_bits_per_dim(frozen, part) for part in (images[:65], images[65:])]
    assert bits == pytest.approx(sum(halves) / 2, abs=1e-6)
    noisy = torch.from_numpy(images + np.concatenate([content_noise(image, "validation") for image in images]))
    with torch.no_grad():
        exact = copy.deepcopy(flow).double()(noisy).log_likelihood.mean()
    assert bits == pytest.approx(-float(exact) / (256 * math.log(2)), abs=1e-6)


def test_the_last_preview_shows_what_the_model_draws(artifact: Path, scorer: Scorer) -> None:
    """The artifact's run has one validation, at its end: weights, latents and inverse are the same."""
    preview = artifact.parent / "samples" / f"step-{QUICK.max_steps:08d}.png"
    drawn = encode_png(
        image_grid(scorer.sample(validation.PREVIEW_SAMPLES, seed=validation.PREVIEW_SEED, inverse="learned"))
    )
    # Engines differ in the last bits of float32, and so a value at the edge of a pixel bin falls to either side.
    shown, expected = (np.asarray(Image.open(io.BytesIO(png)), dtype=int) for png in (preview.read_bytes(), drawn))
    difference = np.abs(shown - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001


def test_flows_without_a_learned_inverse_are_inverted_exactly(tmp_path: Path) -> None:
    path = write_preview(freeze(glow(16, linear="exact"), SHAPE), tmp_path, 123)
    assert path == tmp_path / "step-00000123.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_no_random_state_moves(tmp_path: Path) -> None:
    flow = freeze(glow(16), SHAPE)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    first = write_preview(flow, tmp_path / "first", 1).read_bytes()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index,arg-type]
    assert write_preview(flow, tmp_path / "second", 1).read_bytes() == first


def test_the_last_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "PREVIEWS_KEPT", 2)
    flow = freeze(glow(16), SHAPE)
    for step in (900, 1, 2, 3):
        write_preview(flow, tmp_path, step)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000002.png", "step-00000003.png"], "that of step 900 was another run's"


def test_values_that_are_not_finite_are_no_picture(tmp_path: Path) -> None:
    flow = glow(16)
    with torch.no_grad():
        flow.get_parameter("levels.1.steps.2.net.last.bias").fill_(float("nan"))
    with pytest.raises(ValueError, match="the learned inverse gave values that are not finite"):
        write_preview(freeze(flow, SHAPE), tmp_path, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [torch.linalg.LinAlgError("singular"), OSError(28, "No space left", "/secret/path")])  # type: ignore[attr-defined]
def test_a_preview_that_fails_ends_no_run(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> Path:
        raise error

    monkeypatch.setattr("snf_models.pipeline.loop.write_preview", fail)
    images = real_images(60, 16)
    dataset = Dataset("digits-16", images[:40], images[40:], images[40:], images[40:], "digest")
    config = QUICK.model_copy(update={"max_steps": 1})
    architecture = PRESETS["snf-glow-tiny"].architecture(dataset.image_shape, config.pixel_transform)
    events: list[dict[str, Any]] = []
    trained = Trainer(dataset, architecture, config, tmp_path, events.append).run(lambda: False)
    assert trained.steps == 1
    (message,) = (event["message"] for event in events if event["event"] == "log")
    assert message in {"no samples of step 1: singular", "no samples of step 1: No space left"}
    assert not any(event["event"] == "samples" for event in events)
