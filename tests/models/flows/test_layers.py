"""Layers as data: each type counts, builds and describes its bijection; what cannot be built is refused in words."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from snf_models.bijections.activations import Identity, SmoothLeakyReLU
from snf_models.bijections.base import Bijection
from snf_models.bijections.channels import ActNorm, Squeeze
from snf_models.bijections.convolution_matrix import half_bandwidth
from snf_models.bijections.pixels import AffinePixels
from snf_models.bijections.spectral import ExponentialConv, transfer
from snf_models.errors import ArchitectureInvalid
from snf_models.flows import layers
from snf_models.flows.architecture import MAX_LAYERS, MAX_PARAMETERS, LayeredArchitecture
from snf_models.flows.build import build_flow, describe_flow
from snf_models.flows.flow import Flow, Level
from snf_models.flows.layers import (
    GROUP,
    ExactConvolutionSpec,
    LayerSpec,
    describe_layer,
    find_layer_type,
    layer_types,
)
from snf_models.pipeline.architecture_file import parse_architecture
from snf_models.scoring.frozen import freeze
from tests.models.bijections.test_conformance import CASES

SHAPE = (5, 6, 4)
EXAMPLES: dict[str, dict[str, Any]] = {
    "affine-coupling": {"width": 7, "place": True},
    "spline-coupling": {"width": 7, "place": True, "bins": 4, "bound": 3.5},
    "masked-autoregressive": {"width": 7, "reverse": True},
    "exact-convolution": {"kernel": [5, 3]},
    "spline": {"bins": 4, "bound": 3.5},
    "smooth-leaky-relu": {"alpha": 0.25},
    "woodbury": {"spatial_rank": 3},
    "exact-local-affine": {"grid": 3},
}
"""Parameters that differ from the defaults."""
TYPES = pytest.mark.parametrize("layer_type", list(layer_types()), ids=lambda kind: kind.type_name())


def example(layer_type: type[LayerSpec]) -> LayerSpec:
    required = {name: 7 for name, field in layer_type.model_fields.items() if field.is_required()}
    return layer_type.model_validate(required | EXAMPLES.get(layer_type.type_name(), {}))


def file_of(*steps: Any, shape: tuple[int, int, int] = (1, 8, 8), **more: Any) -> dict[str, Any]:
    """An architecture of one level with a squeeze."""
    return {
        **dict(zip(("channels", "height", "width"), shape, strict=True)),
        "levels": [{"steps": list(steps)}],
        **more,
    }


@TYPES
def test_a_type_counts_builds_and_describes_its_bijection(layer_type: type[LayerSpec]) -> None:
    layer = example(layer_type)
    built = layer.build(SHAPE)
    assert layer.parameters(SHAPE) == sum(parameter.numel() for parameter in built.parameters())
    assert built.output_shape(SHAPE) == SHAPE
    assert type(built) is layer_type.bijection_class()
    assert describe_layer(built) == layer
    assert find_layer_type(layer.type).model_validate_json(layer.model_dump_json()) == layer


def test_every_bijection_of_images_has_a_type() -> None:
    named = {layer_type.bijection_class() for layer_type in layer_types()}
    # A squeeze is part of a level, and the identity stands in place of a pixel transform.
    assert {type(case.make()) for case in CASES if not case.pixels} - {Squeeze, Identity} == named


@pytest.mark.parametrize(("kernel", "shape"), [((3, 3), (2, 9, 8)), ((5, 1), (1, 20, 3)), ((3, 5), (4, 3, 3))])
def test_matrices_have_the_size_that_is_bounded(kernel: tuple[int, int], shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    weight, numbers = torch.zeros(channels, channels, *kernel), channels * height * width
    band = 3 * half_bandwidth(weight, width) + 1
    assert ExactConvolutionSpec(kernel=kernel).matrix(shape) == numbers * min(band, numbers)
    periodic = find_layer_type("periodic-convolution").model_validate({"kernel": kernel})
    assert periodic.matrix(shape) == 2 * transfer(weight, (max(height, kernel[0]), width)).numel() or height < kernel[0]
    exponential = find_layer_type("exponential-convolution").model_validate({"kernel": kernel})
    torus = height + kernel[0] - 1, width + kernel[1] - 1
    assert exponential.matrix(shape) == 2 * transfer(weight, torus).numel()
    assert isinstance(exponential.build(shape), ExponentialConv)


TINY = {"channels": 1, "height": 8, "width": 8, "levels": 1, "steps": 1, "hidden": 4}
REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        file_of({"type": "wodbury"}),
        r"level 1, step 1 \(`wodbury`\): expected a layer type of .*, got 'wodbury'; did you mean 'woodbury'\?",
    ),
    (
        file_of({"type": "actnorm"}, {"type": "exact-convolution", "kernel": 4}),
        r"level 1, step 2 \(`exact-convolution`\), kernel: expected .* odd and from 1 to 15, got 4x4",
    ),
    (file_of({"type": "exact-convolution", "kernel": 17}), "odd and from 1 to 15, got 17x17"),
    (file_of({"type": "exact-convolution", "kernel": "3"}), "odd and from 1 to 15, got 3x3"),
    (
        file_of({"repeat": 3, "steps": [{"type": "actnorm"}, {"type": "affine-coupling"}]}),
        r"level 1, step 1.2 \(`affine-coupling`\), width: a value is required",
    ),
    (file_of({"type": "affine-coupling", "width": 2000}), "expected a value less than or equal to 1024, got 2000"),
    (file_of({"type": "affine-coupling", "width": 8, "depth": 2}), "depth: there is no such parameter"),
    (file_of("actnorm"), "level 1, step 1: expected a layer with its type"),
    (file_of({"type": "actnorm"}, shape=(1, 7, 8)), "level 1, squeeze: expected images with even sides, got 7x8"),
    (
        file_of({"type": "periodic-convolution", "kernel": 5}),
        r"level 1, step 1 \(`periodic-convolution`\): expected images of at least 5x5, got 4x4",
    ),
    (
        {**file_of(), "levels": [{"squeeze": False, "steps": [{"type": "additive-coupling", "width": 4}]}]},
        "at least 2 channels to couple, got 1; squeeze first",
    ),
    (
        {**file_of(), "levels": [{"steps": [{"type": "actnorm"}], "split": {"width": 4}}]},
        "level 1, split: expected none in the last level",
    ),
    (
        file_of({"type": "masked-autoregressive", "width": 4}, shape=(2, 64, 64)),
        r"step 1 \(`masked-autoregressive`\): expected images of at most 4096 values, got 8192; split before it",
    ),
    (
        file_of({"type": "spline-coupling", "width": 4, "bins": 1}),
        r"step 1 \(`spline-coupling`\), bins: expected a value greater than or equal to 2, got 1",
    ),
    (file_of({"type": "smooth-leaky-relu"}), "at least one layer with parameters"),
    (file_of(levels=[]), "at least one level"),
    (file_of(levels=[{"squeeze": False, "steps": [{"type": "actnorm"}]}] * 17), "at most 16 items"),
    (file_of(*[{"repeat": 256, "steps": [{"type": "actnorm"}] * 64}] * 2), f"at most {MAX_LAYERS} layers, got 32768"),
    (
        file_of({"type": "exact-dense"}, shape=(4, 1024, 1024)),
        rf"level 1, step 1 \(`exact-dense`\): expected at most {MAX_PARAMETERS} parameters",
    ),
    (
        file_of({"repeat": 200, "steps": [{"type": "exact-dense"}]}, shape=(1, 64, 64)),
        f"expected at most {MAX_PARAMETERS} parameters up to here",
    ),
    (file_of({"type": "exact-convolution"}, shape=(4, 1024, 1024)), "a matrix of at most .* squeeze more"),
    (file_of({"type": "actnorm"}, lvels=[]), "expected keys of channels, height, .*, got 'lvels'"),
    (file_of({"type": "actnorm"}, family="resnet"), "family: expected one of layers, glow, .*, got 'resnet'"),
    (file_of({"type": "actnorm"}, name="snf-glow-tiny"), "another name than that of a preset"),
    (file_of({"type": "actnorm"}, name="../x"), "name: expected "),
    (
        file_of({"type": "actnorm"}, training={"max_steps": 0}),
        "training: max_steps: expected a value greater than or equal to 1, got 0",
    ),
    (file_of({"type": "actnorm"}, training={"backbone": "x"}), "training: backbone: it has no effect on custom"),
    (
        file_of({"type": "actnorm"}, pixel_transform="cubic"),
        "pixel_transform: expected 'affine', 'logit' or 'marginal', got 'cubic'",
    ),
    ({**TINY, "family": "glow", "levels": 9}, "levels: expected a value less than or equal to 8, got 9"),
    ({**TINY, "family": "glow", "linear": "qr"}, "expected a linear layer of exact, .*, got 'qr'"),
    (file_of({"type": "actnorm"}, levels="x" * 300_000), "at most 262144 bytes"),
]


@pytest.mark.parametrize(("document", "text"), REFUSED, ids=[text[:40] for _, text in REFUSED])
def test_what_cannot_be_built_is_refused_in_words(document: dict[str, Any], text: str) -> None:
    with pytest.raises(ArchitectureInvalid, match=text) as refused:
        parse_architecture(document)
    assert not any(word in refused.value.detail for word in ("pydantic", "Input should", "Value error", "constrained"))


def test_a_package_adds_a_type_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_types", dict(layers._types))
    (tmp_path / "third_party_flow.py").write_text(
        "from snf_models.bijections.activations import SmoothLeakyReLU\n"
        "from snf_models.flows.layers import LayerSpec\n"
        "class GentleReLU(SmoothLeakyReLU):\n"
        "    def __init__(self, alpha=0.8):\n"
        "        super().__init__(alpha)\n"
        "class GentleSpec(LayerSpec, type='gentle-relu', bijection=GentleReLU):\n"
        "    pass\n"
    )
    metadata = tmp_path / "third_party_flow-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party-flow\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        f"[{GROUP}]\ngentle-relu = third_party_flow:GentleSpec\nbroken = third_party_flow:Missing\n"
    )
    document = file_of({"type": "actnorm"}, {"type": "gentle-relu"})
    with pytest.raises(ArchitectureInvalid, match="got 'gentle-relu'"):
        parse_architecture(document)
    monkeypatch.syspath_prepend(tmp_path)
    parse_architecture(document)
    flow = build_flow(LayeredArchitecture.model_validate(document))
    layer = list(flow.level_list()[0].steps)[1]
    assert (type(layer).__name__, layer.alpha) == ("GentleReLU", 0.8)
    assert isinstance(layer, Bijection)
    with pytest.raises(ArchitectureInvalid, match="'broken' cannot be imported from third_party_flow:Missing"):
        parse_architecture(file_of({"type": "broken"}))


def test_a_name_belongs_to_one_type() -> None:
    with pytest.raises(ValueError, match="expected a new name of a layer type, got 'actnorm', which ActNormSpec has"):

        class Impostor(LayerSpec, type="actnorm", bijection=Squeeze):
            pass

    assert find_layer_type("actnorm").__name__ == "ActNormSpec"


def test_a_manifest_never_names_a_module() -> None:
    for name in ("os:system", "snf_models.bijections.channels:ActNorm", "__main__:x"):
        with pytest.raises(ValidationError, match="expected a layer type of"):
            LayeredArchitecture.model_validate(file_of({"type": name}))
    with pytest.raises(ValidationError, match="bijection"):
        LayeredArchitecture.model_validate(file_of({"type": "actnorm", "bijection": "os:system"}))


def test_a_squeeze_inside_a_level_is_not_frozen() -> None:
    """Its log-dets would have pixels of two sizes, and were once added up wrongly."""
    steps: list[Bijection] = [SmoothLeakyReLU(), Squeeze(), ActNorm(4)]
    flow = Flow(AffinePixels(), [Level(steps, squeeze=False)])
    flow.initialize(torch.rand(8, 1, 4, 4) * 256)
    with pytest.raises(ValueError, match=r"only at the start of a level, got one at or after levels\.0\.steps\.1"):
        freeze(flow, (1, 4, 4))
    with pytest.raises(ValueError, match="level 1, step 2: expected a layer of a registered type, got Squeeze"):
        describe_flow(flow, (1, 4, 4))
