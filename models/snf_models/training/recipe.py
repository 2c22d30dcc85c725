"""Recipes: an architecture for each image shape with training settings. The module does not import PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from snf_models.errors import WHITENING_LAYERS, DatasetUnfit, SettingUnsupported
from snf_models.flows.architecture import Architecture, FeatureArchitecture, HybridArchitecture
from snf_models.flows.layers.couplings import Coupling
from snf_models.flows.layers.linear import ExactOneByOneSpec, SelfNormalizingDenseSpec, SelfNormalizingOneByOneSpec
from snf_models.texts import error_line
from snf_models.training.config import TrainingConfig

OF_FEATURES = frozenset({"backbone", "feature_side", "feature_steps", "feature_updates"})
"""Settings that only models with features have."""
NO_EFFECT = "it has no effect on {recipe}"
NO_TILES = "fit tiles is for models of features alone, which {recipe} is not; choose the preset snf-features"


class TrainingRecipe(Protocol):
    """A preset, or an architecture from a file."""

    @property
    def name(self) -> str: ...

    @property
    def family(self) -> str:
        """Kind of architecture, such as "glow" or "features"."""
        ...

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Settings that differ from ``TrainingConfig``."""
        ...

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the settings that can be used; others are refused."""
        ...

    def config(self, parameters: Mapping[str, Any]) -> TrainingConfig: ...

    def architecture_for(
        self, image_shape: tuple[int, int, int], config: TrainingConfig, backbones: Path | None = None
    ) -> Architecture:
        """Return the architecture; raise ``DatasetUnfit`` or ``ArchitectureInvalid`` if it does not fit."""
        ...


def require_features(recipe: TrainingRecipe, *, tiled: bool) -> None:
    """Raise ``DatasetUnfit`` for tiles, unless the recipe models features alone."""
    if tiled and recipe.family != "features":
        raise DatasetUnfit(NO_TILES.format(recipe=recipe.name))


def require_layers(architecture: Architecture, config: TrainingConfig) -> None:
    """Raise ``SettingUnsupported`` if the flow over pixels lacks layers that the settings need."""
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
    """Return the settings; raise ``pydantic.ValidationError``. Minutes without steps have no limit of steps."""
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
    return error_line(error, recipe.parameters)
