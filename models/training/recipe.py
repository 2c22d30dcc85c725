"""Training recipes: an architecture for each image shape, together with training settings.

The module does not import PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from models.errors import WHITENING_LAYERS, DatasetUnfit, SettingUnsupported
from models.flows.architecture import Architecture, FeatureArchitecture, HybridArchitecture
from models.flows.layers.couplings import Coupling
from models.flows.layers.linear import ExactOneByOneSpec, SelfNormalizingDenseSpec, SelfNormalizingOneByOneSpec
from models.texts.validation_texts import error_line
from models.training.config import TrainingConfig

OF_FEATURES = frozenset({"backbone", "feature_side", "feature_steps", "feature_updates"})
"""Settings that only models with features have."""
NO_EFFECT = "it has no effect on {recipe}"
NO_TILES = "fit tiles is for models of features alone, which {recipe} is not; choose the preset snf-features"


class TrainingRecipe(Protocol):
    """Protocol of a training recipe: an architecture with training settings, but without a dataset.

    It is a preset, or an architecture from a file.
    """

    @property
    def name(self) -> str:
        """Name of the recipe, stored in the manifest (description file) of each model trained with it."""
        ...

    @property
    def family(self) -> str:
        """Kind of model architecture that the recipe trains, such as "glow" or "features"."""
        ...

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Default values, by name, of the training settings for which the recipe overrides the usual defaults.

        The usual defaults are those of ``TrainingConfig``.
        """
        ...

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the training settings that can be used with the recipe.

        Other settings are refused.
        """
        ...

    def config(self, parameters: Mapping[str, Any]) -> TrainingConfig:
        """Return the training settings of the recipe, overridden by the user's ``parameters``."""
        ...

    def architecture_for(
        self, image_shape: tuple[int, int, int], config: TrainingConfig, backbones: Path | None = None
    ) -> Architecture:
        """Return the recipe's model architecture for the given image shape and training settings.

        Raises:
            DatasetUnfit: It cannot have this shape.
            ArchitectureInvalid: It has no layer for a setting, such as a 1x1 convolution for ``whitening``.
        """
        ...


def require_features(recipe: TrainingRecipe, *, tiled: bool) -> None:
    """Raise ``DatasetUnfit`` if images are cut into tiles, unless the recipe models image features alone."""
    if tiled and recipe.family != "features":
        raise DatasetUnfit(NO_TILES.format(recipe=recipe.name))


def require_layers(architecture: Architecture, config: TrainingConfig) -> None:
    """Raise ``SettingUnsupported`` if a flow lacks layers that the training settings need.

    The flow over pixels is checked.
    """
    pixels = architecture.pixels if isinstance(architecture, HybridArchitecture) else architecture
    if isinstance(pixels, FeatureArchitecture):
        return
    levels = list(pixels.layered().shaped())
    layers = [layer for level in levels for layer in level.layers]
    if config.whitening and not any(
        isinstance(layer, ExactOneByOneSpec | SelfNormalizingOneByOneSpec) for layer in layers
    ):
        raise SettingUnsupported("whitening", WHITENING_LAYERS)
    if config.corrected_directions and not any(
        isinstance(layer, SelfNormalizingDenseSpec | SelfNormalizingOneByOneSpec) for layer in layers
    ):
        raise SettingUnsupported("corrected_directions", "a self-normalizing dense layer or 1x1 convolution")
    networks = any(isinstance(layer, Coupling) for layer in layers) or any(level.spec.split for level in levels)
    if config.optimizer == "muon" and not networks:
        raise SettingUnsupported("optimizer", "couplings or splits for muon")


def training_config(recipe: TrainingRecipe, parameters: Mapping[str, Any]) -> TrainingConfig:
    """Return the training settings of a recipe, such as a preset, changed by the user's ``parameters``.

    If ``parameters`` have ``max_minutes`` and no ``max_steps``, the minutes alone decide when the training ends.

    Raises:
        pydantic.ValidationError: A parameter is unknown, has no effect on this recipe, or is outside its bounds.
    """
    unused = [name for name in parameters if name in TrainingConfig.model_fields and name not in recipe.parameters]
    if unused:
        raise ValidationError.from_exception_data(
            TrainingConfig.__name__,
            [
                {
                    "type": PydanticCustomError("without_effect", NO_EFFECT, {"recipe": recipe.name}),
                    "loc": (name,),
                    "input": parameters[name],
                }
                for name in unused
            ],
        )
    if parameters.get("fit") == "tiles" and recipe.family != "features":
        raise ValidationError.from_exception_data(
            TrainingConfig.__name__,
            [
                {
                    "type": PydanticCustomError("tiles", NO_TILES, {"recipe": recipe.name}),
                    "loc": ("fit",),
                    "input": "tiles",
                }
            ],
        )
    defaults = dict(recipe.defaults)
    if parameters.get("max_minutes") is not None:
        defaults.pop("max_steps", None)
    return TrainingConfig.model_validate({**defaults, **parameters})


def settings_error(error: ValidationError, recipe: TrainingRecipe) -> str:
    """Return one line of text that describes all errors found in a user's training settings.

    An example is "batch_size: expected ..., got ...".
    """
    return error_line(error, recipe.parameters)
