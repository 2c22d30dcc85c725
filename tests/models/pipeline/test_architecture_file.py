"""Architectures from files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from snf_models.artifacts.manifest import read_manifest
from snf_models.bijections.activations import SmoothLeakyReLU
from snf_models.bijections.base import Bijection
from snf_models.bijections.channels import ActNorm, SelfNormalizingConv1x1
from snf_models.bijections.coupling import AffineCoupling
from snf_models.bijections.dense import SelfNormalizingDense, WoodburyConv
from snf_models.bijections.pixels import LogitPixels
from snf_models.bijections.spectral import PeriodicConv
from snf_models.datasets import Dataset
from snf_models.errors import ArchitectureInvalid, ArtifactError, DatasetUnfit, FolderTaken
from snf_models.flows.architecture import FeatureArchitecture, GlowArchitecture, HybridArchitecture, PixelArchitecture
from snf_models.flows.build import build_flow, describe_flow
from snf_models.flows.flow import Flow, Level
from snf_models.flows.layers import LayerSpec, describe_layer, layer_types
from snf_models.loading.trained import load_artifact, load_flows
from snf_models.loading.verification import verify_model
from snf_models.pipeline.architecture_file import (
    ArchitectureFile,
    document_of,
    find_recipe,
    parse_architecture,
    read_architecture_file,
)
from snf_models.pipeline.presets import PRESETS
from snf_models.scorer import load_model
from snf_models.scoring import EngineOptions
from snf_models.scoring.frozen import constant_log_dets
from tests.models.flows.test_layers import example
from tests.models.helpers import edit_manifest, real_images
from tests.models.training.runs import train_whole

SHAPE = (1, 8, 8)
BUDGET = {"max_steps": 4, "batch_size": 16, "validations": 1, "validation_images": 20, "warmup_steps": 0}
ENGINE = EngineOptions("torch", threads=1)


def digits() -> Dataset:
    """Real digits, 8x8."""
    images = real_images(160, 8)
    parts = {name: images[80 + 20 * n : 100 + 20 * n] for n, name in enumerate(("statistics", "calibration", "test"))}
    return Dataset("digits-8", train=images[:80], **parts, digest="digest-8")


def with_layer(layer: LayerSpec, **training: Any) -> dict[str, Any]:
    """A document of two levels with a layer of any type beside a coupling."""
    own = layer.model_dump(mode="json")
    around = [{"type": "actnorm"}, {"repeat": 2, "steps": [own]}, {"type": "affine-coupling", "width": 4}]
    levels = [{"steps": around, "split": {"width": 4}}, {"steps": [own], "squeeze": False}]
    return {"name": "mine", "levels": levels, "training": {**BUDGET, "precision": "float32", **training}}


def run(recipe: Any, folder: Path, **changes: Any) -> Path:
    """Train on small digits and seal the model."""
    config = recipe.config(changes) if not isinstance(recipe, Flow) else PRESETS["snf-glow-tiny"].config(changes)
    return train_whole(digits(), recipe, config, folder, threads=1, engine=ENGINE)


def example_of(name: str) -> LayerSpec:
    return next(example(kind) for kind in layer_types() if kind.type_name() == name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a finished run of a file with a layer of type lu-1x1."""
    return run(parse_architecture(with_layer(example_of("lu-1x1"))), tmp_path_factory.mktemp("finished"))


def test_a_finished_run_of_another_architecture_keeps_its_folder(finished: Path) -> None:
    assert run(parse_architecture(with_layer(example_of("lu-1x1"))), finished.parent) == finished
    with pytest.raises(FolderTaken):
        run(parse_architecture(with_layer(example_of("exact-1x1"))), finished.parent)


def test_a_damaged_manifest_asks_for_no_memory(finished: Path, tmp_path: Path) -> None:
    artifact = shutil.copytree(finished, tmp_path / "artifact")
    model = verify_model(artifact)
    large = {"channels": 4, "height": 1024, "width": 1024}

    def ask_for(architecture: dict[str, Any]) -> str:
        def change(manifest: dict[str, Any]) -> None:
            manifest["architecture"] = architecture
            manifest["preprocessing"] |= {name: architecture[name] for name in large}

        edit_manifest(artifact, change)
        with pytest.raises(ArtifactError) as refused:
            load_flows(replace(model, manifest=read_manifest(artifact)), artifact)
        return refused.value.detail

    levels = [{"steps": [{"type": "self-normalizing-dense"}]}]
    assert "expected at most 1073741824 parameters" in ask_for({**large, "family": "fully-connected"})
    assert "expected at most 1073741824 parameters" in ask_for({**large, "family": "layers", "levels": levels})
    levels[0]["steps"][0]["type"] = "somebody-elses"
    assert "expected a layer type of" in ask_for({**large, "family": "layers", "levels": levels})


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_of_pixels_is_an_architecture_file(name: str) -> None:
    preset, shape = PRESETS[name], (1, 32, 32)
    config = preset.config({})
    architecture = preset.architecture(shape, config.pixel_transform)
    if isinstance(architecture, FeatureArchitecture | HybridArchitecture):
        assert preset.family in ("features", "hybrid")
        return
    document = json.loads(json.dumps(document_of(architecture.layered(), "copy", preset.defaults)))
    recipe = parse_architecture(document)
    assert recipe.config({}) == config
    assert recipe.architecture_for(shape, config) == architecture.layered()
    with torch.device("meta"):
        flow = build_flow(architecture)
    described = (describe_layer(step) for level in flow.level_list() for step in level.steps)
    assert list(described) == [layer for level in architecture.layered().shaped() for layer in level.layers]


@pytest.mark.parametrize(
    "text",
    [
        '{"channels":1,"height":28,"width":28,"pixel_transform":"marginal","family":"glow","levels":2,"steps":8,'
        '"hidden":128,"linear":"self-normalizing"}',
        '{"channels":1,"height":28,"width":28,"pixel_transform":"logit","family":"convolutional","blocks":3,'
        '"layers":3,"kernel":3,"linear":"emerging"}',
        '{"channels":3,"height":8,"width":8,"pixel_transform":"affine","family":"fully-connected","layers":2,'
        '"linear":"relative"}',
    ],
    ids=["glow", "convolutional", "fully-connected"],
)
def test_short_forms_of_earlier_versions_are_unchanged(text: str) -> None:
    """Their JSON is part of the identity of a training, by which its checkpoints are found."""
    architecture: PixelArchitecture = TypeAdapter(PixelArchitecture).validate_json(text)
    assert architecture.model_dump_json() == text
    assert architecture.layered().pixel_transform == architecture.pixel_transform


def test_a_short_form_may_stand_in_a_file() -> None:
    document = {"family": "glow", "levels": 2, "steps": 4, "hidden": 16, "kernel": 5}
    recipe = parse_architecture(document)
    assert (recipe.name, recipe.family) == ("custom", "glow")
    architecture = recipe.architecture_for((1, 28, 28), recipe.config({"pixel_transform": "logit"}))
    assert architecture == PRESETS["snf-glow-2l-4k-5x5"].architecture((1, 28, 28), "logit")


@pytest.mark.parametrize(("linear", "kernel"), [("emerging", 1), ("exponential", 5)])
def test_a_short_form_has_the_kernel_that_it_asks_for(linear: str, kernel: int) -> None:
    """Emerging and exponential convolutions of short forms are 3x3."""
    recipe = parse_architecture({"family": "convolutional", "linear": linear, "kernel": kernel})
    with pytest.raises(ArchitectureInvalid, match=f"kernel: expected 3 for {linear} convolutions.*got {kernel}"):
        recipe.architecture_for((1, 28, 28), recipe.config({}))
    glow = {"family": "glow", "levels": 1, "steps": 1, "hidden": 8, "linear": linear}
    sized = parse_architecture({**glow, "kernel": 3})
    assert "3x3" in sized.architecture_for((1, 28, 28), sized.config({})).summary()
    plain = parse_architecture(glow)
    with pytest.raises(ArchitectureInvalid, match="expected a linear layer of exact, self-normalizing, lu"):
        plain.architecture_for((1, 28, 28), plain.config({}))


def test_the_papers_5x5_glow_has_its_published_shape() -> None:
    """Keller et al. 2021: two levels of four steps, 5x5 convolutions, couplings of width 16, GECO from 1."""
    preset = PRESETS["snf-glow-2l-4k-5x5"]
    config = preset.config({})
    summary = preset.architecture((1, 28, 28), config.pixel_transform).summary()
    assert summary == "Glow, 2 levels of 4 steps, width 16, self-normalizing 5x5 convolutions"
    assert (config.multiplier, config.reconstruction_weight, config.learning_rate) == ("geco", 1.0, 1e-3)


def test_a_short_form_by_place_is_by_place_in_all_layers_and_leaves_the_key_out_otherwise() -> None:
    sizes = {"channels": 1, "height": 8, "width": 8, "levels": 2, "steps": 1, "hidden": 4}
    by_place, everywhere = (GlowArchitecture.model_validate({**sizes, "place": place}) for place in (True, False))
    assert by_place.layered().model_dump_json().count('"place":true') == 3
    assert "place" not in everywhere.model_dump_json() + everywhere.layered().model_dump_json()
    assert by_place.summary() == "Glow, 2 levels of 1 steps, width 4 by place, self-normalizing 1x1 convolutions"
    described, written = describe_flow(build_flow(by_place), (1, 8, 8)).shaped(), by_place.layered().shaped()
    assert [(one.layers, one.spec.split) for one in described] == [(one.layers, one.spec.split) for one in written]


def test_images_of_another_shape_are_refused() -> None:
    recipe = parse_architecture({**with_layer(example_of("woodbury")), "channels": 1, "height": 8, "width": 8})
    with pytest.raises(DatasetUnfit, match="mine is for images of 1x8x8, got 3x8x8; set image_size or colour"):
        recipe.architecture_for((3, 8, 8), recipe.config({}))
    free = parse_architecture(with_layer(example_of("woodbury")))
    with pytest.raises(ArchitectureInvalid, match="level 1, squeeze: expected images with even sides, got 9x8"):
        free.architecture_for((1, 9, 8), free.config({}))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{", "flow.json: expected JSON"),
        (b"[1]", "flow.json: expected a JSON object, got list"),
        (b"\xff", "flow.json: expected JSON"),
        (b"[" * 100_000, "flow.json: expected JSON"),
        (b" " * 300_000, "flow.json: expected a file of at most 262144 bytes"),
    ],
    ids=["cut", "list", "bytes", "nested", "large"],
)
def test_files_that_are_no_architecture_are_refused(content: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "flow.json"
    path.write_bytes(content)
    with pytest.raises(ArchitectureInvalid, match=text):
        read_architecture_file(path)
    with pytest.raises(ArchitectureInvalid, match=r"none\.json cannot be read: No such file"):
        read_architecture_file(tmp_path / "none.json")


def test_a_recipe_is_found_by_name_or_by_document() -> None:
    assert find_recipe("snf-glow-tiny", None) is PRESETS["snf-glow-tiny"]
    assert isinstance(find_recipe("ignored", with_layer(example_of("lu-1x1"))), ArchitectureFile)


def by_hand() -> Flow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first: list[Bijection] = [ActNorm(4), PeriodicConv(4), SelfNormalizingConv1x1(4), AffineCoupling(4, 8)]
        second: list[Bijection] = [WoodburyConv((2, 4, 4), 1, 2), SelfNormalizingDense(32), ActNorm(2)]
        return Flow(LogitPixels(), [Level(first, AffineCoupling(4, 4)), Level(second, squeeze=False)])


def test_a_flow_built_by_hand_is_trained_from_its_own_weights(tmp_path: Path) -> None:
    flow = by_hand()
    with torch.no_grad():
        flow.get_parameter("levels.0.steps.1.weight").mul_(3)
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    artifact = run(flow, tmp_path, **{**BUDGET, "learning_rate": 1e-9, "precision": "float32"})
    loaded = load_artifact(artifact)
    assert loaded.manifest.architecture == describe_flow(flow, SHAPE)
    assert loaded.manifest.training.config["pixel_transform"] == "logit"
    kept = loaded.flow.state_dict()["levels.0.steps.1.weight"]
    torch.testing.assert_close(kept, before["levels.0.steps.1.weight"], rtol=1e-5, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    assert not load_model(artifact, options=ENGINE).density.has_map


@pytest.mark.parametrize("first", [SelfNormalizingConv1x1, ActNorm])
def test_a_flow_built_by_hand_in_float64_becomes_one_in_float32(first: type[Bijection], tmp_path: Path) -> None:
    """Its log-dets are those of the weights that are stored and loaded."""
    flow = Flow(LogitPixels(), [Level([first(4), SelfNormalizingConv1x1(4)])]).double()
    loaded = load_artifact(run(flow, tmp_path, **BUDGET))
    assert constant_log_dets(loaded.flow, SHAPE) == loaded.manifest.log_dets.layers
    assert {value.dtype for value in flow.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    "setting", [{}, {"recompute": True}, {"corrected_directions": 2}, {"refresh_inverse_every": 2}], ids=str
)
def test_layers_built_by_hand_without_gradients_stay_as_they_are(setting: dict[str, Any], tmp_path: Path) -> None:
    layers = [ActNorm(4), SelfNormalizingConv1x1(4), AffineCoupling(4, 4), SelfNormalizingConv1x1(4)]
    flow = Flow(LogitPixels(), [Level(layers)])
    layers[1].requires_grad_(False)
    layers[3].get_parameter("weight").requires_grad_(False)
    for number in (1, 3):
        layers[number].get_parameter("inverse_weight").data += 0.1  # no exact inverse, which settings would restore
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    artifact = run(flow, tmp_path, **BUDGET, precision="float32", **setting)
    after = load_artifact(artifact).flow.state_dict()
    same = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert same == {f"levels.0.steps.{name}" for name in ("1.weight", "1.inverse_weight", "1.bias", "3.weight")}


def test_a_flow_built_by_hand_is_not_whitened(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureInvalid, match="whitening: a flow built by hand starts from its own weights"):
        run(by_hand(), tmp_path, **BUDGET, whitening=True)
    assert not any(tmp_path.iterdir())


def test_a_flow_of_unknown_layers_or_with_a_context_is_refused(tmp_path: Path) -> None:
    class Mine(PeriodicConv):
        pass

    flow = Flow(LogitPixels(), [Level([ActNorm(4), Mine(4)])])
    with pytest.raises(ArchitectureInvalid, match="level 1, step 2: expected a layer of a registered type, got Mine"):
        run(flow, tmp_path, **BUDGET)
    conditional = Flow(LogitPixels(), [Level([AffineCoupling(4, 8, context=3)])])
    with pytest.raises(ArchitectureInvalid, match="expected no context, got layers with a context of 3 numbers"):
        run(conditional, tmp_path, **BUDGET)
    with pytest.raises(ValueError, match="pixel transform of affine, logit, marginal, got LogitPixels"):
        describe_flow(Flow(LogitPixels(0.05), by_hand().level_list()), SHAPE)
    wrong = Flow(LogitPixels(), [Level([ActNorm(3)])])
    with pytest.raises(ValueError, match=r"expected the weights that the layer types build.*levels\.0\.steps\.0"):
        describe_flow(wrong, SHAPE)


@pytest.mark.parametrize("layer", [WoodburyConv((4, 2, 8), 1, 2), WoodburyConv((4, 3, 4), 1, 2)])
def test_a_layer_for_other_images_is_named(layer: Bijection, tmp_path: Path) -> None:
    """The first one has weights of the right shapes."""
    flow = Flow(LogitPixels(), [Level([ActNorm(4), layer])])
    with pytest.raises(ArchitectureInvalid, match=r"level 1, step 2: expected WoodburyConv .* \(4, 4, 4\), got one"):
        run(flow, tmp_path, **BUDGET)
    assert not any(tmp_path.iterdir())


def test_layers_that_share_weights_are_named(tmp_path: Path) -> None:
    shared, tied = SelfNormalizingConv1x1(4), SelfNormalizingConv1x1(4)
    tied.weight = shared.weight
    norm, bend = ActNorm(4), SmoothLeakyReLU()
    for first, second, where in (
        ([shared, norm, shared], [ActNorm(4)], "level 1, step 3: .* those of level 1, step 1"),
        ([shared, norm], [tied], "level 2, step 1: .* those of level 1, step 1 .levels.0.steps.0.weight"),
    ):
        flow = Flow(LogitPixels(), [Level(first), Level(second, squeeze=False)])
        with pytest.raises(ArchitectureInvalid, match=f"{where}.*copy.deepcopy"):
            run(flow, tmp_path, **BUDGET)
        assert not any(tmp_path.iterdir())
    run(Flow(LogitPixels(), [Level([bend, norm, bend])]), tmp_path, **BUDGET)  # a layer without weights


def test_the_shape_of_a_flow_by_hand_is_that_of_the_dataset(tmp_path: Path) -> None:
    images = real_images(160, 8, channels=1)[:, :, :7]
    odd = replace(digits(), **dict.fromkeys(("train", "statistics", "calibration", "test"), images[:20]))
    with pytest.raises(ArchitectureInvalid, match="even sides, got 7x8"):
        train_whole(odd, by_hand(), PRESETS["snf-glow-tiny"].config({}), tmp_path)
