"""Engines of feature densities against the float64 reference, and the same bits for an image in every batch."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor

from snf_models.bijections.conformance import randomise
from snf_models.errors import BackboneUnfit
from snf_models.features.backbones import LITE0, Backbone, BackboneOutput, BackboneStore, weight_shapes
from snf_models.features.extractor import TorchExtractor, normalised, on_one_grid
from snf_models.features.flows import FrozenFeatureFlows, build_feature_flows, freeze_features
from snf_models.flows.architecture import FeatureArchitecture
from snf_models.scoring import EngineOptions
from snf_models.scoring.cache import open_program
from snf_models.scoring.open_density import open_extractor
from snf_models.scoring.openvino_features import FeatureGraphs, open_network
from snf_models.scoring.torch_engine import TorchFeatureEngine
from snf_runtime.images.preprocessing import Pixels
from snf_runtime.scoring.feature_density import FeatureDensity
from snf_runtime.scoring.openvino_engine import CompiledGraph, OpenVINOFeatures, core
from tests.models.helpers import real_images
from tests.models.onnx_files import description, onnx_file, reference

FEATURES, SQUARES = 1e-5, 1e-4
"""Largest differences between float32 and float64, relative to the largest value of an image."""


def feature_engine(
    store: BackboneStore,
    backbone: Backbone,
    shape: tuple[int, int, int],
    size: tuple[int, int],
    flows: FrozenFeatureFlows,
    threads: int,
    cache: Path | None = None,
) -> OpenVINOFeatures:
    graphs = FeatureGraphs(open_network(store, backbone), backbone, shape, size, flows)
    return open_program(OpenVINOFeatures, graphs, size[0] * size[1], threads, cache)


def random_weights() -> dict[str, NDArray[np.float32]]:
    """Weights of EfficientNet-Lite0 that keep activations of the same size through all blocks."""
    random = np.random.default_rng(0)
    weights = {}
    for name, shape in weight_shapes().items():
        gain = 0.1 if name.endswith("bias") else np.sqrt(2 / np.prod(shape[1:]))
        weights[name] = (gain * random.standard_normal(shape)).astype(np.float32)
    return weights


def stored(folder: Path, backbone: Backbone, content: bytes) -> tuple[BackboneStore, Backbone]:
    store = BackboneStore(folder)
    backbone = backbone.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    store.add(backbone, content)
    return store, backbone


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> tuple[BackboneStore, Backbone]:
    return stored(tmp_path_factory.mktemp("lite0"), LITE0, save(random_weights()))


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[BackboneStore, Backbone]:
    return stored(tmp_path / "backbones", description("0" * 64), onnx_file())


class TinyExtractor(TorchExtractor):
    """The reference of the ONNX file."""

    def __init__(self, backbone: Backbone, size: tuple[int, int]) -> None:
        self.backbone, self.size = backbone, size

    def features(self, images: Pixels) -> tuple[Tensor, Tensor]:
        maps, deepest = reference(normalised(images, self.backbone, self.size, torch.float64))
        places = on_one_grid(maps, self.backbone)
        return places, torch.cat([places.mean((2, 3)), deepest.mean((2, 3))], 1)


def random_flows(
    backbone: Backbone, shape: tuple[int, int, int], size: tuple[int, int], grids: tuple[int, ...], steps: int = 0
) -> FrozenFeatureFlows:
    channels, height, width = shape
    features, rows, columns = backbone.feature_shape(size)
    architecture = FeatureArchitecture(
        channels=channels,
        height=height,
        width=width,
        backbone=backbone.name,
        backbone_sha256=backbone.sha256,
        input_height=size[0],
        input_width=size[1],
        feature_channels=features,
        rows=rows,
        columns=columns,
        pooled=backbone.pooled_groups,
        grids=grids,
        steps=steps,
        hidden=16,
    )
    flows = build_feature_flows(architecture)
    randomise(flows, 0.1)
    return freeze_features(flows)


def pixels(count: int, shape: tuple[int, int, int]) -> Pixels:
    """Real digits of a shape; larger ones are several digits beside each other."""
    channels, height, width = shape
    down, across = -(-height // 28), -(-width // 28)
    digits = real_images(count * down * across, 28, channels).reshape(count, down, across, channels, 28, 28)
    mosaic = digits.transpose(0, 3, 1, 4, 2, 5).reshape(count, channels, 28 * down, 28 * across)
    return np.ascontiguousarray(mosaic[:, :, :height, :width])


def difference(got: NDArray[np.floating], want: NDArray[np.floating]) -> float:
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


GREY, COLOUR = (1, 28, 28), (3, 32, 28)


@pytest.mark.parametrize(("shape", "size"), [(GREY, (64, 64)), (COLOUR, (96, 64)), ((1, 64, 96), (64, 96))])
def test_features_agree_with_float64(
    lite0: tuple[BackboneStore, Backbone], shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    store, backbone = lite0
    images = pixels(2, shape)
    extract = open_extractor(store, backbone, shape, size, EngineOptions(threads=1))
    exact = TorchExtractor(backbone, store.arrays(backbone), size, torch.float64)
    places, pooled = extract(images)
    assert places.shape[1:] == extract.feature_shape == (152, size[0] // 16, size[1] // 16)
    assert extract.pooled == (152, 320)
    assert pooled.shape[1:] == (472,)
    np.testing.assert_allclose(pooled[:, :152], places.mean((2, 3)), rtol=1e-4, atol=1e-5)
    for got, want in zip((places, pooled), exact.features(images), strict=True):
        assert difference(got, want.numpy()) < FEATURES


def test_squares_agree_with_float64(lite0: tuple[BackboneStore, Backbone]) -> None:
    store, backbone = lite0
    grids, steps = (4, 1, 4, 16), 0  # `TestOnnx` has the other fits
    size, images = (96, 64), pixels(2, COLOUR)
    flows = random_flows(backbone, COLOUR, size, grids, steps)
    engine = feature_engine(store, backbone, COLOUR, size, flows, 1)
    exact = TorchFeatureEngine(TorchExtractor(backbone, store.arrays(backbone), size, torch.float64), flows)
    (places, pooled), expected = engine.squares(images), exact.squares(images)
    assert places.shape == (2, len(grids), 6, 4)
    assert pooled.shape == (2, len(grids), 2)
    assert places.dtype == pooled.dtype == np.float64
    for got, want in zip((places, pooled), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=SQUARES)


@pytest.fixture
def of_a_backbone(request: pytest.FixtureRequest) -> tuple[BackboneStore, Backbone]:
    """A backbone by the name of its fixture."""
    found: tuple[BackboneStore, Backbone] = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize(
    ("of_a_backbone", "grids", "steps"),
    [("lite0", (16, 1, 16), 0), ("tiny", (2,), 2), ("tiny", (16,), 0)],
    ids=str,
    indirect=["of_a_backbone"],
)
def test_an_image_has_the_same_bits_in_every_batch(
    of_a_backbone: tuple[BackboneStore, Backbone], grids: tuple[int, ...], steps: int
) -> None:
    store, backbone = of_a_backbone
    flows = random_flows(backbone, GREY, (64, 64), grids, steps)
    engine, images = feature_engine(store, backbone, GREY, (64, 64), flows, 2), pixels(17, GREY)
    expected = engine.squares(images)
    order = np.random.default_rng(0).permutation(len(images))
    alone = [engine.squares(image[None]) for image in images[:5]]
    for number, want in enumerate(expected):
        np.testing.assert_array_equal(engine.squares(images[order])[number], want[order])
        np.testing.assert_array_equal(engine.squares(images[3:12])[number], want[3:12])
        np.testing.assert_array_equal(np.concatenate([result[number] for result in alone]), want[:5])
    assert [len(part) for part in engine.squares(images[:0])] == [0, 0]


@pytest.mark.parametrize(
    ("of_a_backbone", "grids", "steps"),
    [("lite0", (16, 1), 0), ("tiny", (2,), 2)],
    ids=str,
    indirect=["of_a_backbone"],
)
def test_tiles_of_any_size_give_the_same_bits(
    of_a_backbone: tuple[BackboneStore, Backbone], grids: tuple[int, ...], steps: int
) -> None:
    """Within a machine, so that a measured tile size does not change a result."""
    store, backbone = of_a_backbone
    flows = random_flows(backbone, GREY, (64, 64), grids, steps)
    graphs = FeatureGraphs(open_network(store, backbone), backbone, GREY, (64, 64), flows)
    images, results = pixels(16, GREY), []
    for tile in (1, 4, 16):
        settings = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 2, "INFERENCE_PRECISION_HINT": "f32"}
        graph = CompiledGraph(core().compile_model(graphs(tile).model, "CPU", settings), 1)
        results.append(graph.outputs(len(images)))
        graph.run([images], results[-1], 0, len(images))
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(got, want)


def test_groups_of_a_density_fill_the_tiles_of_all_threads(
    tiny: tuple[BackboneStore, Backbone], tmp_path: Path
) -> None:
    """Images of groups that do not are computed one by one, which takes half as long again."""
    store, backbone = tiny
    flows = random_flows(backbone, GREY, (224, 224), (2,))
    engine = feature_engine(store, backbone, GREY, (224, 224), flows, 2, tmp_path / "cache")
    density = FeatureDensity(engine, flows, "", GREY, (224, 224))
    groups = [len(found) for _, found in density.passes(pixels(20, GREY)) if found is not None]
    assert groups == [8, 8, 4]
    assert engine.plan.parallel_runs(8) * engine.micro_batch * engine.threads == 8


FITS: list[tuple[tuple[int, ...], int]] = [
    ((1,), 0),
    ((2,), 0),
    ((4,), 0),
    ((16,), 0),
    ((4, 1, 4, 16), 0),
    ((1,), 1),
    ((2,), 2),
    ((16,), 2),
]


class TestOnnx:
    """Backbones in ONNX files."""

    @pytest.mark.parametrize(
        ("shape", "size", "grids", "steps"),
        [(GREY, (32, 32), (2, 4), 0), *((COLOUR, (96, 64), *fit) for fit in FITS)],
        ids=str,
    )
    def test_squares_agree_with_float64(
        self,
        tiny: tuple[BackboneStore, Backbone],
        shape: tuple[int, int, int],
        size: tuple[int, int],
        grids: tuple[int, ...],
        steps: int,
    ) -> None:
        store, backbone = tiny
        flows = random_flows(backbone, shape, size, grids, steps)
        images = pixels(9, shape)
        engine = feature_engine(store, backbone, shape, size, flows, 2)
        found, expected = (
            engine.squares(images),
            TorchFeatureEngine(TinyExtractor(backbone, size), flows).squares(images),
        )
        for got, want, alone in zip(found, expected, engine.squares(images[:1]), strict=True):
            np.testing.assert_allclose(got, want, rtol=SQUARES)
            np.testing.assert_array_equal(alone, got[:1])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"input": "pixels"}, "one input, 'pixels' of f32, got 'image' of f32"),
            ({"pooled": BackboneOutput(name="deepest", channels=10, stride=16)}, "no tensor 'deepest'"),
            ({"pooled": BackboneOutput(name="deep", channels=12, stride=16)}, r"12, 2, 2\] .* got f32 \[1,10,2,2\]"),
        ],
    )
    def test_a_description_that_does_not_fit(self, tmp_path: Path, changes: dict[str, object], message: str) -> None:
        store, backbone = stored(tmp_path, description("0" * 64, **changes), onnx_file())
        with pytest.raises(BackboneUnfit, match=message):
            open_extractor(store, backbone, GREY, (32, 32), EngineOptions())

    def test_a_file_that_is_not_the_described_one(self, tiny: tuple[BackboneStore, Backbone]) -> None:
        store, backbone = tiny
        store.path(backbone).write_bytes(onnx_file() + b"\0")
        with pytest.raises(BackboneUnfit, match="SHA-256"):
            open_extractor(store, backbone, GREY, (32, 32), EngineOptions())

    def test_a_file_that_is_no_onnx(self, tmp_path: Path) -> None:
        store, backbone = stored(tmp_path, description("0" * 64), b"not a network")
        with pytest.raises(BackboneUnfit, match="cannot read"):
            open_extractor(store, backbone, GREY, (32, 32), EngineOptions())

    def test_weights_outside_the_file_are_not_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The digest of the file does not cover them."""
        monkeypatch.chdir(tmp_path)
        np.zeros((6, 3, 4, 4), np.float32).tofile("weights.bin")
        for number, location in enumerate(["weights.bin", "../../weights.bin", str(tmp_path / "weights.bin")]):
            store, backbone = stored(tmp_path / f"store{number}", description("0" * 64), onnx_file(location))
            with pytest.raises(BackboneUnfit, match="cannot read"):
                open_extractor(store, backbone, GREY, (32, 32), EngineOptions())
