"""Every layer type and preset: exported as trained, resumed as undisturbed, with bounded learned inverses, served.

``pytest tests/test_checked_models.py --write-docs`` writes the table of tests/tables/checked-models.md anew.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from snf_models.flows.architecture import FeatureArchitecture
from snf_models.pipeline.presets import PRESETS
from snf_models.registry.registry import Registry
from snf_runtime.images.batch import stacked
from snf_runtime.images.codec import encode_png
from tests.support.backbones import backbone_folder
from tests.support.checked_models import (
    LAYERS,
    TOLERANCE,
    CheckedModel,
    TrainedTwice,
    learned_inverses,
    same_weights,
    train_twice,
)
from tests.support.documents import check_table
from tests.support.paths import ROOT
from tests.support.service_settings import client_of, service_settings

PAGE = ROOT / "tests" / "tables" / "checked-models.md"
ROUNDING = 1e-14
"""Largest relative difference of a score in float64 by equal weights whose memory is ordered otherwise."""
EQUAL, CLOSE = "equal", "within 1e-6"
HEAD = "| {} | exported, trained | resumed, undisturbed | learned inverse | served, trained |\n|---|---|---|---|---|\n"
SCORED = 2
"""Images that are scored by each model."""


@dataclass(frozen=True)
class ComparedRow:
    """What is compared for a layer type or preset, in words."""

    exported: str
    resumed: str
    inverse: str
    served: str

    def line(self, name: str) -> str:
        """Return the line of the table."""
        return f"| `{name}` | {self.exported} | {self.resumed} | {self.inverse} | {self.served} |\n"


RowOf = Callable[[CheckedModel], ComparedRow]


def relative_difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.max(np.abs(one - other) / np.abs(other)))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def service(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    backbones = backbone_folder(tmp_path_factory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snf_app.state.Registry", partial(Registry, zoo=tmp_path_factory.mktemp("no-zoo")))
        settings = service_settings(home, threads=1, backbones=backbones)
        with client_of(settings) as client:
            yield client


@pytest.fixture(scope="module")
def row_of(home: Path, service: TestClient, tmp_path_factory: pytest.TempPathFactory) -> RowOf:
    """Trains and serves each model once."""
    registry = Registry(home / "registry")
    rows: dict[str, ComparedRow] = {}

    def row(model: CheckedModel) -> ComparedRow:
        if model.key not in rows:
            checked = train_twice(model, tmp_path_factory.mktemp(model.name), backbone_folder(tmp_path_factory))
            registry.publish(checked.folder, model.name, promote=True)
            rows[model.key] = compare(service, model, checked)
        return rows[model.key]

    return row


def compare(service: TestClient, model: CheckedModel, checked: TrainedTwice) -> ComparedRow:
    assert checked.exported.manifest.training.preset == model.recipe.name
    assert model.name in (checked.folder / "card.md").read_text(encoding="utf-8")
    images = stacked(model.dataset.test[:SCORED])
    trained = np.array([checked.trained_score(image[None]) for image in images])
    inverse = learned_inverses(checked.exported.flow, model.dataset.image_shape)
    check_samples(service, model.name, checked, learned=inverse != "none")
    # Weights that differ give the first image another score.
    off = relative_difference(np.array([checked.exported_score(images[:1])]), trained[:1])
    apart = relative_difference(served_scores(service, model.name, images), trained)
    return ComparedRow(
        EQUAL if off <= ROUNDING else f"apart by {off:.2g}",
        EQUAL if same_weights(checked.exported.flow, checked.undisturbed.kept) else "apart",
        inverse,
        CLOSE if apart <= TOLERANCE else f"apart by {apart:.2g}",
    )


def served_scores(service: TestClient, name: str, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the scores that the service answers, which are the same for images alone and together."""
    files = [encode_png(image) for image in images]
    results, together = [scored(service, name, [file])[0] for file in files], scored(service, name, files)
    for key in ("log_likelihood", "terms"):
        assert [result[key] for result in together] == [result[key] for result in results]
    assert all(0 < result["anomaly"]["p_value"] <= 1 for result in results)
    return np.array([result["log_likelihood"] for result in results])


def check_samples(service: TestClient, name: str, checked: TrainedTwice, *, learned: bool) -> None:
    """Check that samples are drawn by the inverses that a model has, and refused by others."""
    of_features = isinstance(checked.architecture, FeatureArchitecture)
    for inverse, known in (("exact", True), ("learned", learned)):
        drawn = service.get(f"/v1/models/{name}/samples", params={"n": 2, "seed": 0, "inverse": inverse})
        assert drawn.status_code == (200 if known and not of_features else 422), drawn.text


def scored(service: TestClient, name: str, files: list[bytes]) -> list[dict[str, Any]]:
    """Return the results of a request with some images."""
    answer = service.post(f"/v1/models/{name}/score", files=[("images", ("image.png", file)) for file in files])
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def check(row: ComparedRow) -> None:
    assert (row.exported, row.resumed, row.served) == (EQUAL, EQUAL, CLOSE)
    assert row.inverse in ("bounded", "none")


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_lives_from_its_file_to_served_scores(name: str, row_of: RowOf) -> None:
    check(row_of(CheckedModel.of_layer(name)))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_lives_from_training_to_served_scores(name: str, row_of: RowOf) -> None:
    check(row_of(CheckedModel.of_preset(name)))


def test_the_table_is_that_of_the_document(row_of: RowOf, request: pytest.FixtureRequest) -> None:
    layers = "".join(row_of(CheckedModel.of_layer(name)).line(name) for name in LAYERS)
    presets = "".join(row_of(CheckedModel.of_preset(name)).line(name) for name in PRESETS)
    table = f"{HEAD.format('layer type')}{layers}\n{HEAD.format('preset')}{presets}"
    check_table(PAGE, table, request.config)
