"""Import of the published flows of Keller et al. as complete models.

The models are calibrated, evaluated and measured as trained models are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.datasets import Dataset
from models.flows.architecture import LayeredArchitecture
from models.flows.flow import Flow
from models.images.options import ImageOptions
from models.scoring.options import EngineOptions
from models.training.architecture_file import ArchitectureFile, document_of
from models.training.artifact import TrainedModel, write_artifact
from models.training.config import TrainingConfig
from models.training.loop import Observer
from models.training.run import source_commit
from models.training.schedule import Schedule
from models.training.trained_flow import TrainedFlow

NAME = "published"
"""Name of the recipe, which the manifest records."""
SETTINGS = frozenset(ImageOptions.model_fields) | {"pixel_transform"}
"""The settings that an imported model has: how its images are prepared."""


@dataclass(frozen=True)
class PublishedRecipe(ArchitectureFile):
    """Recipe of an imported flow: its layers and the settings that prepare its images.

    There are no settings of a training.
    """

    @property
    def parameters(self) -> frozenset[str]:
        """The names of an imported model's settings, which only control how images are prepared.

        They are its image options and its pixel transform.
        """
        return SETTINGS


def recipe_of(architecture: LayeredArchitecture | None = None) -> PublishedRecipe:
    """Return the recipe of a flow with published weights: its layers, and how images are prepared.

    The recipe lists no layers if ``architecture`` is None (not known yet).
    """
    described = {} if architecture is None else document_of(architecture, NAME, {})
    layers = {key: value for key, value in described.items() if key not in ("name", "training", "pixel_transform")}
    return PublishedRecipe(NAME, "layers", layers, {"pixel_transform": "logit"})


def write_model(
    path: Path,
    flow: Flow,
    architecture: LayeredArchitecture,
    source: str,
    dataset: Dataset,
    config: TrainingConfig,
    observe: Observer,
    options: EngineOptions,
) -> None:
    """Calibrate and evaluate an imported flow, and write it to a folder as a complete model.

    The checks whether the flow is fit to serve are run and recorded, too. The folder of the model is written completely
    or not at all.

    Args:
        path: Folder of the artifact.
        flow: The flow.
        architecture: Its layers.
        source: Where its weights come from, which the manifest records.
        dataset: Images to calibrate and evaluate with; none of them trains the flow.
        config: The settings of the images.
        observe: Function that receives the events.
        options: Engine that calibrates and evaluates.

    Raises:
        SingularLayer: A layer cannot be inverted.
        EngineUnavailable: The engine does not support the model.
    """
    weights = TrainedFlow(flow, 0, 0, 0.0, 0.0, 0.0, None, None, None, imported=source)
    model = TrainedModel.of(architecture, weights, None, 0.0)
    schedule = Schedule(config, len(dataset.statistics))
    recipe, commit = recipe_of(architecture), source_commit()
    write_artifact(path, dataset, recipe, config, model, "float32", observe, None, commit, options, schedule)
