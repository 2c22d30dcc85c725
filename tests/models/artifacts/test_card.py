"""Model cards of densities of pixels, of features, and of both."""

from pathlib import Path

import pytest

from snf_models.artifacts.card import model_card
from snf_models.artifacts.manifest import FeatureFitRecord, GridChoice, Manifest, read_manifest
from snf_models.flows.architecture import HybridArchitecture
from snf_models.pipeline.presets import find_preset

CHOICE = GridChoice(grid=8, shrinkage=0.05, mean_shrinkage=0.4, held_out_nats=-0.3)
FIT = FeatureFitRecord(backbone="efficientnet-lite0", grids=(CHOICE, CHOICE), pooled=CHOICE, fits=6)


@pytest.fixture
def of_pixels() -> Manifest:
    return read_manifest(Path("models/snf_models/zoo/mnist-snf-glow/1"))


@pytest.fixture
def of_features(of_pixels: Manifest) -> Manifest:
    figures = {
        "validation_bits_per_dim": None,
        "validation_nats": -812.34,
        "test_bits_per_dim": None,
        "test_nats": -800.06,
        "test_images": 50,
    }
    training = {"preset": "snf-features", "steps": 0, "best_step": 0, "seconds": 12.6, "feature_fit": FIT}
    return of_pixels.model_copy(
        update={
            "architecture": find_preset("snf-features").architecture((1, 28, 28), "marginal"),
            "evaluation": of_pixels.evaluation.model_copy(update=figures),
            "training": of_pixels.training.model_copy(update=training),
        }
    )


def test_features_have_nats_and_no_samples(of_features: Manifest) -> None:
    card = model_card(of_features)
    assert "| test set | mean log-likelihood 800.1 nats (50 images) |" in card
    assert "| validation | mean log-likelihood 812.3 nats |" in card
    assert "| training | fitted in closed form, 13 seconds |" in card
    assert "| backbone | efficientnet-lite0, digest" in card
    assert "images are enlarged to 128x128" in card
    assert (
        "| grid of the features | 8x8, shrinkage 0.05 of covariances and 0.4 of means, the best of 2 grids by "
        "held-out log-likelihood; the fit is repeated without each of 5 folds |"
    ) in card
    for absent in ("samples.png", "pixel transform", " steps,", "[0, 256)^D"):
        assert absent not in card


def test_a_hybrid_has_the_facts_of_both(of_pixels: Manifest, of_features: Manifest) -> None:
    features, pixels = of_features.architecture, of_pixels.architecture
    shape = {"channels": 1, "height": 28, "width": 28}
    hybrid = HybridArchitecture.model_validate({**shape, "pixels": pixels, "features": features})
    card = model_card(of_pixels.model_copy(update={"architecture": hybrid}))
    usual = model_card(of_pixels)
    for line in usual.splitlines():
        if line.startswith(("| test set", "| validation", "| pixel transform", "| training", "![64")):
            assert line in card
    assert "| backbone | efficientnet-lite0" in card
    assert "backbone" not in usual
    assert "the log-likelihood is that of the pixels" in card


def test_manifests_of_earlier_versions_have_neither_nats_nor_a_fit(of_pixels: Manifest) -> None:
    document = of_pixels.model_dump(mode="json")
    del document["evaluation"]["validation_nats"], document["training"]["feature_fit"]
    earlier = Manifest.model_validate(document)
    assert earlier.evaluation.validation_nats is None
    assert earlier.training.feature_fit is None
    assert earlier.architecture.kind == "density"


@pytest.mark.parametrize(
    ("dataset", "licence"),
    [
        ("mnist", "CC BY-SA 3.0"),
        ("cifar10", "no formal licence; its author asks for a citation"),
        ("parts", "not recorded"),
    ],
)
def test_the_licence_of_the_images_is_named(of_pixels: Manifest, dataset: str, licence: str) -> None:
    training = of_pixels.training.model_copy(update={"dataset": dataset})
    assert f"| licence of the images | {licence}" in model_card(of_pixels.model_copy(update={"training": training}))


@pytest.mark.parametrize("name", ["mnist-snf-glow", "fashion-snf-glow", "cifar10-snf-glow"])
def test_the_cards_of_shipped_models_are_those_of_their_manifests(name: str) -> None:
    folder = Path("models/snf_models/zoo") / name / "1"
    assert (folder / "card.md").read_text() == model_card(read_manifest(folder))
