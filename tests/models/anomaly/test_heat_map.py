"""Heat maps: exact, standardised against the reference, and drawn with red where an image is less likely."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.anomaly.fitting.calibrate import ReferenceImages, calibrate
from models.anomaly.heat_map_picture import OVERLAY_SIDE, overlay
from models.datasets import load_dataset
from models.errors import HeatMapUnsupported
from models.flows.architecture import FullyConnectedArchitecture
from models.loading.load_flows import Artifact, load_artifact
from models.scorer import Scorer
from models.scoring.engines.torch_engine import TorchEngine
from models.scoring.flow_density import FlowDensity
from models.scoring.frozen import freeze, layers_with_log_det
from snf_runtime.anomaly.calibration import MapReference
from snf_runtime.anomaly.pixel_contributions import standardise
from tests.models.anomaly.flows import fully_connected
from tests.models.helpers import real_images


def decoded(png: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(png))
    picture.load()
    assert picture.format == "PNG"
    return picture


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 20), (4, 9, 70), (2, 8, 8), (1, 300, 40)])
def test_overlay_is_a_whole_multiple_of_the_image(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    picture = decoded(overlay(image, np.zeros(shape[1:])))
    factor = max(1, OVERLAY_SIDE // max(shape[1:]))
    assert (picture.height, picture.width) == (factor * shape[1], factor * shape[2])
    assert picture.mode == "RGB"
    # Without a deviation it is the image in grey, each pixel a block of that size.
    blocks = np.asarray(picture).reshape(shape[1], factor, shape[2], factor, 3)
    grey = np.rint(image[:3].mean(0)).astype(np.uint8)
    assert (blocks == grey[:, None, :, None, None]).all()


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_red_is_less_likely_and_blue_is_more(grey: int) -> None:
    z = np.zeros((32, 32))
    z[4:12, 4:12], z[20:28, 20:28] = -6, 6
    pixels = np.asarray(decoded(overlay(np.full((1, 32, 32), grey, np.uint8), z))).astype(int)
    factor = len(pixels) // 32
    red, blue, plain = (pixels[factor * k + 1, factor * k + 1] for k in (8, 24, 16))
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert plain.tolist() == [grey] * 3
    red_places = (pixels[::factor, ::factor, 0] - pixels[::factor, ::factor, 2]) > 30
    assert red_places[5:11, 5:11].all()
    assert not red_places[14:, :].any()


def test_standardise() -> None:
    generator = np.random.default_rng(0)
    mean, deviation = generator.normal(size=(4, 5)), generator.uniform(1, 2, (4, 5))
    nats = generator.normal(size=(3, 4, 5))
    expected = [
        [[(nats[n, i, j] - mean[i, j]) / deviation[i, j] for j in range(5)] for i in range(4)] for n in range(3)
    ]
    np.testing.assert_allclose(standardise(nats, MapReference(mean, deviation)), expected, rtol=1e-12)


def test_maps_of_a_model(scorer: Scorer) -> None:
    digits = load_dataset("mnist-mini", None)
    images = digits.test[:5]
    maps = scorer.heat_maps(images)
    for found, scored in zip(maps, scorer.score(images), strict=True):
        assert found.nats.shape == found.z.shape == (28, 28)
        assert found.nats.sum() == pytest.approx(scored.log_likelihood, rel=1e-6)
        assert found.gradients is None
    # The reference is that of the statistics images, pixel by pixel.
    reference = np.stack([one.nats for one in scorer.heat_maps(digits.statistics)])
    deviation = reference.std(0)
    deviation = np.maximum(deviation, 0.1 * np.median(deviation))
    expected = (maps[0].nats - reference.mean(0)) / deviation
    np.testing.assert_allclose(maps[0].z, expected, rtol=1e-5, atol=1e-5)
    alone = scorer.heat_maps(images[3:4])[0]
    np.testing.assert_allclose(alone.nats, maps[3].nats, rtol=1e-10, atol=1e-10)


def test_a_planted_hole_shows(scorer: Scorer) -> None:
    image = load_dataset("mnist-mini", None).test[0].copy()
    image[:, 8:16, 18:26] = np.random.default_rng(0).integers(0, 256, (8, 8))
    z = scorer.heat_maps(image[None])[0].z
    assert z[8:16, 18:26].mean() < z[:, :8].mean() - 1
    pixels = np.asarray(decoded(overlay(image, z))).astype(int)
    factor = len(pixels) // 28
    redness = (pixels[..., 0] - pixels[..., 2])[::factor, ::factor]
    assert redness[8:16, 18:26].mean() > redness.mean() + 20


def test_fully_connected_flows_have_none(artifact: Path) -> None:
    flow = fully_connected(6)
    frozen = freeze(flow, (1, 6, 6))
    images = real_images(60, 6)
    reference = ReferenceImages("digits", "0", images[:40], images[40:])
    density = FlowDensity(TorchEngine(frozen), frozen, "digest")
    calibration, summary = calibrate(density, reference, images[0], lambda *_: None, flow=flow)
    assert calibration.pixels is None
    assert calibration.folds[0].statistic.local is None
    manifest = load_artifact(artifact).manifest
    log_dets = manifest.log_dets.model_copy(update={"layers": dict.fromkeys(layers_with_log_det(flow, (1, 6, 6)), 0.0)})
    preprocessing = replace(manifest.preprocessing, height=6, width=6)
    update = {"architecture": FullyConnectedArchitecture(channels=1, height=6, width=6), "preprocessing": preprocessing}
    small = manifest.model_copy(update={**update, "log_dets": log_dets, "calibration": summary})
    scorer = Scorer.of(Artifact(small, calibration, images[:1], flow))
    with pytest.raises(HeatMapUnsupported):
        scorer.require_spatial()
    with pytest.raises(HeatMapUnsupported):
        scorer.heat_maps(images[:2])
    # Verdicts there are, those with gradients too.
    for gradients in (False, True):
        found = scorer.anomalies(scorer.score_each(images[40:44], gradients=gradients))  # type: ignore[arg-type]
        assert all(0 < one.p_value <= 1 for one in found)
        assert all(reason.box is None for one in found for reason in one.reasons)
