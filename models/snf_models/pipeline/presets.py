"""Recipes: an architecture for each image shape with training settings. The module does not import PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, LiteralString

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from snf_client.schemas.training import GROUPS, ImageOptions, TrainingConfig
from snf_models.datasets import DatasetSummary
from snf_models.datasets.dataset import held_out_sizes
from snf_models.errors import WHITENING_LAYERS, DatasetUnfit, PresetNotFound, SettingUnsupported
from snf_models.features.backbones import DEFAULT_FOLDER, LARGEST_SIDE, LITE0, Backbone, BackboneStore
from snf_models.flows.architecture import (
    FINEST_GRID,
    Architecture,
    ConvolutionalArchitecture,
    FeatureArchitecture,
    FullyConnectedArchitecture,
    GlowArchitecture,
    HybridArchitecture,
    PixelArchitecture,
    PixelTransform,
    depth,
)
from snf_models.flows.layers import Coupling, ExactOneByOneSpec, SelfNormalizingDenseSpec, SelfNormalizingOneByOneSpec
from snf_models.texts import choices, error_line, value_text
from snf_runtime.anomaly.calibration import DEFAULT_ALPHA, smallest_p

OF_FEATURES = frozenset({"backbone", "feature_side", "feature_steps", "feature_updates"})
"""Settings that only models with features have."""
NO_EFFECT: LiteralString = "it has no effect on {recipe}"
NO_TILES: LiteralString = (
    "fit tiles is for models of features alone, which {recipe} is not; choose the preset snf-features"
)


@dataclass(frozen=True)
class TrainingRecipe(ABC):
    """A preset, or an architecture from a file: an architecture for each image shape, and training settings.

    Attributes:
        name: Name of the recipe.
        family: Kind of architecture, such as "glow" or "features"; of a file "layers" for a list of layers.
        defaults: Training settings that differ from the defaults of :class:`TrainingConfig`.
    """

    name: str
    family: str
    defaults: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the settings that can be used; others have no effect and are refused."""
        return frozenset(TrainingConfig.model_fields) - OF_FEATURES

    def config(self, parameters: Mapping[str, Any]) -> TrainingConfig:
        """Return the settings, overridden by ``parameters``; raise ``pydantic.ValidationError``.

        Minutes without steps have no limit of steps.
        """
        refused = {
            name: NO_EFFECT
            for name in parameters
            if name in TrainingConfig.model_fields and name not in self.parameters
        }
        if not refused and parameters.get("fit") == "tiles" and self.family != "features":
            refused = {"fit": NO_TILES}
        if refused:
            errors: list[InitErrorDetails] = [
                {
                    "type": PydanticCustomError("without_effect", text, {"recipe": self.name}),
                    "loc": (name,),
                    "input": parameters[name],
                }
                for name, text in refused.items()
            ]
            raise ValidationError.from_exception_data(TrainingConfig.__name__, errors)
        defaults = dict(self.defaults)
        if parameters.get("max_minutes") is not None:
            defaults.pop("max_steps", None)
        return TrainingConfig.model_validate({**defaults, **parameters})

    def architecture_for(
        self, image_shape: tuple[int, int, int], config: TrainingConfig, backbones: Path | None = None
    ) -> Architecture:
        """Return the architecture for an image shape and settings, with a backbone of the folder ``backbones``.

        Raises:
            DatasetUnfit: The architecture cannot have this image shape, or cannot be one of tiles.
            ArchitectureInvalid: It has no layer for a setting, such as a 1x1 convolution for ``whitening``.
            BackboneMissing: The backbone is not installed here.
        """
        if config.fit == "tiles" and self.family != "features":
            raise DatasetUnfit(NO_TILES.format(recipe=self.name))
        architecture = self._architecture(image_shape, config, backbones)
        require_layers(architecture, config)
        return architecture

    @abstractmethod
    def _architecture(
        self, image_shape: tuple[int, int, int], config: TrainingConfig, backbones: Path | None
    ) -> Architecture: ...


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


def settings_error(error: ValidationError, recipe: TrainingRecipe) -> str:
    return error_line(error, recipe.parameters)


@dataclass(frozen=True)
class ExpectedRanks:
    images: int  # that give ranks; copies of an image may count once
    images_for_default: int  # uploaded good images from which on a rate of 1 % is attainable

    @classmethod
    def of(cls, architecture: Architecture, config: TrainingConfig, splits: DatasetSummary) -> ExpectedRanks:
        ranked = round(1 / DEFAULT_ALPHA) - 1
        if isinstance(architecture, FeatureArchitecture) and whole_folds(config, splits):
            return cls(splits.train + splits.statistics + splits.calibration, ranked)
        held_out = next(total for total in count(1) if (held_out_sizes(total)[1] or held_out_sizes(total)[0]) >= ranked)
        return cls(splits.statistics if splits.folds else splits.calibration, held_out)

    @property
    def smallest_alpha(self) -> float:
        return smallest_p(self.images)

    @property
    def sentence(self) -> str:
        attainable = f"p-values are ranks among {self.images} images: the smallest attainable alpha is "
        needed = f"{DEFAULT_ALPHA:g} takes {self.images_for_default} good images of this kind of model"
        return f"{attainable}{self.smallest_alpha:.2g}; {needed}"


def whole_folds(config: TrainingConfig, splits: DatasetSummary) -> int:
    """Return in how many folds the whole fit is repeated; 0 for Glow steps, unless images are too few for them."""
    return 0 if config.feature_steps and not splits.folds else splits.whole_folds


OF_IMAGES = frozenset(ImageOptions.model_fields)
FITTED = OF_IMAGES | OF_FEATURES | {"suspect_share"}
"""Settings of presets that are fitted in closed form, without training steps."""


@dataclass(frozen=True)
class Preset(TrainingRecipe):
    """A named flow architecture with training settings that suit it, such as ``snf-glow-small``.

    Attributes:
        linear: Kind of its linear layers, such as "self-normalizing" or "exact".
        purpose: Short text for lists of presets.
        steps: Glow steps per level.
        width: Channels of the hidden layers of Glow's coupling nets.
        levels: Glow levels; None where they follow from the image size (:func:`depth`).
        kernel: Side of the convolutions of Glow steps.
    """

    linear: str
    purpose: str
    steps: int = 0
    width: int = 0
    levels: int | None = None
    kernel: int = 1

    @property
    def parameters(self) -> frozenset[str]:
        if self.family == "features":
            return FITTED
        return super().parameters | (OF_FEATURES if self.family == "hybrid" else set())

    def architecture(
        self,
        image_shape: tuple[int, int, int],
        pixels: PixelTransform,
        backbone: Backbone = LITE0,
        feature_side: int | None = None,
        *,
        tiled: bool = False,
    ) -> Architecture:
        """Return the architecture for an image shape and a pixel transform.

        Args:
            image_shape: Channels, height and width.
            pixels: The pixel transform.
            backbone: The backbone of a model with features.
            feature_side: The shorter side to which images are enlarged for the backbone, at least; None for its own.
            tiled: Whether images of any size are scored tile by tile; ``image_shape`` is then that of a tile.

        Raises:
            DatasetUnfit: The architecture cannot have this image shape.
        """
        if self.family in ("features", "hybrid"):
            features = self._features(image_shape, backbone, feature_side, tiled)
            if self.family == "features":
                return features
            glow = replace(self, family="glow")._pixels(image_shape, pixels)
            channels, height, width = image_shape
            return HybridArchitecture(channels=channels, height=height, width=width, pixels=glow, features=features)
        return self._pixels(image_shape, pixels)

    def _architecture(
        self, image_shape: tuple[int, int, int], config: TrainingConfig, backbones: Path | None
    ) -> Architecture:
        backbone = LITE0
        if self.family in ("features", "hybrid"):
            backbone = BackboneStore(backbones or DEFAULT_FOLDER).find(config.backbone)
        tiled = config.fit == "tiles"
        return self.architecture(image_shape, config.pixel_transform, backbone, config.feature_side, tiled=tiled)

    def _features(
        self, image_shape: tuple[int, int, int], backbone: Backbone, feature_side: int | None, tiled: bool
    ) -> FeatureArchitecture:
        channels, height, width = image_shape
        if channels not in (1, 3) or max(height, width) > LARGEST_SIDE:
            raise DatasetUnfit(
                f"{self.name} takes grey or RGB images with sides up to {LARGEST_SIDE}, got "
                f"{channels}x{height}x{width}; set colour to rgb or grey, or image_size"
            )
        # Tiles keep the resolution of the file, unless they are to be enlarged.
        size = backbone.input_size(height, width, feature_side or (height if tiled else None))
        features, rows, columns = backbone.feature_shape(size)
        if tiled and height % rows:
            raise DatasetUnfit(
                f"a tile of {height} pixels would have {rows} places along a side, which do not divide it; set "
                f"image_size to a multiple of {backbone.multiple}"
                + (", or feature_side to a multiple of image_size" if feature_side else "")
            )
        return FeatureArchitecture(
            channels=channels,
            height=height,
            width=width,
            backbone=backbone.name,
            backbone_sha256=backbone.digest,
            input_height=size[0],
            input_width=size[1],
            tiled=tiled,
            feature_channels=features,
            rows=rows,
            columns=columns,
            pooled=backbone.pooled_groups,
            grids=(FINEST_GRID,),
            linear=self.linear,
        )

    def _pixels(self, image_shape: tuple[int, int, int], pixels: PixelTransform) -> PixelArchitecture:
        channels, height, width = image_shape
        shape = {"channels": channels, "height": height, "width": width, "pixel_transform": pixels}
        if not (1 <= channels <= 4 and max(height, width) <= 1024):
            raise DatasetUnfit(f"expected 1 to 4 channels and sides up to 1024, got {channels}x{height}x{width}")
        if self.family == "fully-connected":
            if channels * height * width > MAX_DENSE:
                raise DatasetUnfit(
                    f"{self.name} has a D x D matrix in each layer: expected at most {MAX_DENSE} dimensions, got "
                    f"{channels * height * width}; set a smaller image_size"
                )
            return FullyConnectedArchitecture.model_validate({**shape, "linear": self.linear})
        halvings = 2 if self.family == "convolutional" else self.levels or depth(height, width)
        if halvings == 0 or height % 2**halvings or width % 2**halvings or min(height, width) < 2 ** (halvings + 1):
            raise DatasetUnfit(
                f"{self.name} halves both sides {max(halvings, 1)} times: expected multiples of "
                f"{2 ** max(halvings, 1)}, at least {max(8, 2 ** (halvings + 1))}, got {height}x{width}; "
                "set image_size to such a side"
            )
        if self.family == "convolutional":
            return ConvolutionalArchitecture.model_validate({**shape, "linear": self.linear})
        sizes = {"linear": self.linear, "levels": halvings, "steps": self.steps, "hidden": self.width}
        sizes["kernel"] = self.kernel
        return GlowArchitecture.model_validate({**shape, **sizes})


MAX_DENSE = 4096  # largest number of dimensions D of a dense layer: its D x D matrix takes 128 MiB in float64

SELF_NORMALIZING, EXACT = "self-normalizing", "exact"

PAPER: Mapping[str, Any] = {
    # Keller et al. 2021, published settings: Adam at a constant rate after ten epochs of linear warm-up, no averaging.
    "pixel_transform": "logit",
    "precision": "float32",
    "batch_size": 100,
    "learning_rate": 1e-3,
    "warmup_steps": 5000,
    "final_learning_rate": 1.0,
    "ema_decay": 0.0,
    "gradient_clip": 1e9,
    # Those of Glow on MNIST; the paper took 3,000,000 for dense and 500,000 for convolutional models.
    "max_steps": 125_000,
}


MUON: Mapping[str, Any] = {"optimizer": "muon"}


def _twins(size: str, steps: int, width: int, purpose: str, defaults: Mapping[str, Any] = MUON) -> list[Preset]:
    compared = f"{purpose}; exact gradient, for comparison"
    return [
        Preset(f"snf-glow-{size}", "glow", SELF_NORMALIZING, purpose, steps, width, defaults=defaults),
        Preset(f"exact-glow-{size}", "glow", EXACT, compared, steps, width, defaults=defaults),
    ]


def _paper(name: str, family: str, linear: str, **defaults: Any) -> Preset:
    return Preset(name, family, linear, "reproduction of the paper", defaults={**PAPER, **defaults})


def _paper_glow(levels: int, steps: int, weight: float, **defaults: Any) -> list[Preset]:
    size, purpose = f"{levels}l-{steps}k", "reproduction of the paper"
    common = {**PAPER, **defaults}
    learned = {**common, "reconstruction_weight": weight}
    return [
        Preset(f"glow-{size}", "glow", EXACT, purpose, steps, 512, levels, defaults=common),
        Preset(f"snf-glow-{size}", "glow", SELF_NORMALIZING, purpose, steps, 512, levels, defaults=learned),
    ]


def _with_features(name: str, family: str, purpose: str, **sizes: int) -> list[Preset]:
    defaults = {"automatic_side": 256} if family == "features" else MUON
    return [
        Preset(f"snf-{name}", family, SELF_NORMALIZING, purpose, defaults=defaults, **sizes),
        Preset(f"exact-{name}", family, EXACT, f"{purpose}; without learned inverses", defaults=defaults, **sizes),
    ]


_FIVE_BY_FIVE = Preset(
    # Keller et al. 2021, A.5: 1000 epochs, and GECO starts at a multiplier of 1.
    "snf-glow-2l-4k-5x5",
    "glow",
    SELF_NORMALIZING,
    "reproduction of the paper, 5x5 convolutions in Glow",
    steps=4,
    width=16,
    levels=2,
    kernel=5,
    defaults={**PAPER, "multiplier": "geco", "reconstruction_weight": 1.0, "max_steps": 500_000},
)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        *_twins("tiny", 4, 32, "tests, seconds", {}),
        *_twins("small", 8, 128, "a CPU, minutes to an hour"),
        *_twins("medium", 16, 256, "hours on a CPU"),
        *_with_features("features", "features", "defects of parts and surfaces, fitted in a minute"),
        *_with_features("hybrid", "hybrid", "pixels as snf-glow-small, and features", steps=8, width=128),
        _paper("exact-fc-2l", "fully-connected", EXACT, learning_rate=1e-4),
        _paper("snf-fc-2l", "fully-connected", SELF_NORMALIZING, learning_rate=1e-4, reconstruction_weight=1.0),
        _paper("relative-fc-2l", "fully-connected", "relative", learning_rate=1e-4),
        _paper("exact-conv-9l", "convolutional", EXACT),
        _paper("snf-conv-9l", "convolutional", SELF_NORMALIZING, reconstruction_weight=1.0),
        _paper("emerging-conv-9l", "convolutional", "emerging"),
        _paper("exponential-conv-9l", "convolutional", "exponential"),
        *_paper_glow(2, 16, 100.0),
        # The published runs clip at a norm of 10,000 in nats; here gradients are in nats a dimension.
        *_paper_glow(3, 32, 1000.0, gradient_clip=10_000 / 3072),
        *_paper_glow(3, 48, 1000.0, gradient_clip=10_000 / 3072, batch_size=64, warmup_steps=0),
        _FIVE_BY_FIVE,
    )
}


def find_preset(name: str) -> Preset:
    """Return a preset, or raise ``PresetNotFound`` with a list of all."""
    if name not in PRESETS:
        raise PresetNotFound(f"there is no preset {name!r}; {choices(name, PRESETS)}")
    return PRESETS[name]


@dataclass(frozen=True)
class Parameter:
    name: str
    values: str  # type and range, such as "integer, 2 to 4096"
    default: str  # as it would be given; "unset" for None
    meaning: str


def parameter_groups() -> dict[str, list[Parameter]]:
    """Return the parameters by subject."""
    fields = TrainingConfig.model_json_schema()["properties"]
    return {title: [_parameter(name, fields[name]) for name in names] for title, names in GROUPS.items()}


def preset_defaults() -> list[tuple[list[str], dict[str, str]]]:
    """Return groups of presets with the defaults that they change, as text."""
    usual, changes = TrainingConfig(), {}
    for preset in PRESETS.values():
        own = preset.config({})
        changes[preset.name] = {
            name: value_text(value)
            for names in GROUPS.values()
            for name in names
            if (value := getattr(own, name)) != getattr(usual, name)
        }
    alike: list[tuple[list[str], dict[str, str]]] = []
    for preset_name, changed in changes.items():
        same = next((names for names, others in alike if others == changed), None)
        if same is not None:
            same.append(preset_name)
        elif changed:
            alike.append(([preset_name], changed))
    return alike


def _parameter(name: str, schema: Mapping[str, Any]) -> Parameter:
    return Parameter(name, _values(schema), value_text(schema["default"]), schema["description"])


def _values(schema: Mapping[str, Any]) -> str:
    # Of a value that may be unset, the other option.
    schema = next((option for option in schema.get("anyOf", ()) if option["type"] != "null"), schema)
    if "enum" in schema:
        return " or ".join([", ".join(schema["enum"][:-1]), schema["enum"][-1]])
    if schema["type"] == "array":
        return f"{_values(schema['prefixItems'][0])}, or two as [height, width]"
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "string":
        return "text"
    limits = _range(schema)
    return f"{schema['type']}, {limits}" if limits else schema["type"]


def _range(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f"{least:.12g} to {most:.12g}"
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return ", ".join(f"{word} {schema[key]:.12g}" for key, word in words.items() if key in schema)
