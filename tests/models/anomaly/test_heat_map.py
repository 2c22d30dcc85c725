"""Heat maps: exact, standardised against the reference, and drawn in colour from the threshold on."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from snf_models.anomaly.calibrate import ReferenceImages, calibrate
from snf_models.anomaly.heat_map_picture import OVERLAY_SIDE, colours, overlay
from snf_models.datasets import load_dataset
from snf_models.errors import HeatMapUnsupported
from snf_models.flows.architecture import FullyConnectedArchitecture
from snf_models.loading.trained import Artifact, load_artifact
from snf_models.scorer import Scorer
from snf_models.scoring.frozen import freeze, layers_with_log_det
from snf_models.scoring.open_density import FlowDensity
from snf_models.scoring.torch_engine import TorchEngine
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
    picture = decoded(overlay(image, np.zeros(shape[1:]), 1.0))
    factor = max(1, OVERLAY_SIDE // max(shape[1:]))
    assert (picture.height, picture.width) == (factor * shape[1], factor * shape[2])
    assert picture.mode == "RGB"
    # Without a deviation it is the image in grey, each pixel a block of that size.
    blocks = np.asarray(picture).reshape(shape[1], factor, shape[2], factor, 3)
    grey = np.rint(image[:3].mean(0)).astype(np.uint8)
    assert (blocks == grey[:, None, :, None, None]).all()


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_colour_starts_at_the_threshold_and_leaves_the_image_visible(grey: int) -> None:
    anomaly = np.zeros((32, 32))
    anomaly[2:12, 2:12], anomaly[20:30, 2:12], anomaly[20:30, 20:30] = 4, 12, -4
    anomaly[2:12, 20:30] = np.nextafter(4, 0)
    image = np.full((1, 32, 32), grey, np.uint8)
    image[0, 5] = 255 - grey
    pixels = np.asarray(decoded(overlay(image, anomaly, 4.0))).astype(int)[4::8, 4::8]
    layer = colours(anomaly, 4.0)[4::8, 4::8].astype(int)
    # Not a pixel below the threshold has a colour, however near it is.
    assert (layer[..., 3] > 0).tolist() == (np.abs(anomaly) >= 4).tolist()
    assert (pixels[0:14, 14:] == image[0, 0:14, 14:, None]).all()
    amber, red, blue = (layer[k] for k in ((7, 7), (25, 7), (25, 25)))
    assert amber[0] > 200 > amber[1] > 150 > amber[2]
    assert red[0] > 200
    assert max(red[1], red[2]) < 50
    assert blue[2] > blue[0] + 100
    assert max(amber[3], red[3], blue[3]) < 0.6 * 255
    # A line of the image is seen below the strongest colour.
    line = np.abs(pixels[5, 4:10] - pixels[7, 4:10]).sum(1)
    assert (line >= 0.4 * 3 * abs(255 - 2 * grey) - 3).all()


def test_twice_the_anomaly_is_redder_and_no_threshold_has_no_colour() -> None:
    anomaly = np.linspace(1, 4, 16)[None].repeat(16, 0)
    greens = colours(anomaly, 1.0)[120, 24:-24:16, 1].astype(int)
    assert (np.diff(greens) <= 0).all()
    assert len(set(greens.tolist())) > 8
    assert not colours(anomaly, None).any()


def test_maps_of_a_model(scorer: Scorer) -> None:
    digits = load_dataset("mnist-mini", None)
    images = digits.test[:5]
    maps = scorer.heat_maps(images)
    for found, scored in zip(maps, scorer.score(images), strict=True):
        assert found.nats.shape == found.z.shape == (28, 28)
        assert found.nats.sum() == pytest.approx(scored.log_likelihood, rel=1e-6)
    # The reference is that of the statistics images, pixel by pixel.
    reference = np.stack([one.nats for one in scorer.heat_maps(digits.statistics)])
    deviation = reference.std(0)
    deviation = np.maximum(deviation, 0.1 * np.median(deviation))
    expected = (maps[0].nats - reference.mean(0)) / deviation
    np.testing.assert_allclose(maps[0].z, expected, rtol=1e-5, atol=1e-5)
    alone = scorer.heat_maps(images[3:4])[0]
    np.testing.assert_allclose(alone.nats, maps[3].nats, rtol=1e-10, atol=1e-10)


def test_fully_connected_flows_have_none(artifact: Path) -> None:
    flow = fully_connected(6)
    frozen = freeze(flow, (1, 6, 6))
    images = real_images(60, 6)
    reference = ReferenceImages("digits", "0", images[:40], images[40:])
    density = FlowDensity(TorchEngine(frozen), frozen, "digest")
    calibration, summary = calibrate(density, reference, images[0], lambda *_: None)
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
    found = scorer.verdicts(scorer.score(images[40:44]))
    assert all(0 < one.p_value <= 1 for one in found)
    assert all(reason.box is None for one in found for reason in one.reasons)
