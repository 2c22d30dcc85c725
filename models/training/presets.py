"""Presets: named combinations of an architecture and training settings.

The module does not import PyTorch, so that the service lists presets without loading it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from models.errors import DatasetUnfit, PresetNotFound
from models.flows.architecture import (
    Architecture,
    ConvolutionalArchitecture,
    FullyConnectedArchitecture,
    GlowArchitecture,
    PixelTransform,
    depth,
)
from models.training.config import TrainingConfig

Family = Literal["glow", "convolutional", "fully-connected"]


@dataclass(frozen=True)
class Preset:
    """A named flow architecture with training settings that suit it, such as ``snf-glow-small``.

    Attributes:
        name: Name of the preset.
        family: Kind of architecture.
        linear: Kind of its linear layers, such as "self-normalizing" or "exact".
        purpose: Short text for lists of presets.
        steps: Glow steps per level.
        width: Channels of the hidden layers of Glow's coupling nets.
        levels: Glow levels; None where they follow from the image size (:func:`depth`).
        defaults: Training settings that differ from the defaults of :class:`TrainingConfig`.
    """

    name: str
    family: Family
    linear: str
    purpose: str
    steps: int = 0
    width: int = 0
    levels: int | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def config(self, parameters: Mapping[str, Any]) -> TrainingConfig:
        """Return the preset's training settings, replaced by the user's ``parameters`` where these are given.

        Raises:
            pydantic.ValidationError: A parameter is unknown or outside its bounds.
        """
        return TrainingConfig.model_validate({**self.defaults, **parameters})

    def architecture(self, image_shape: tuple[int, int, int], pixels: PixelTransform) -> Architecture:
        """Return the preset's architecture for images of ``image_shape``. Raises ``DatasetUnfit`` if there is none.

        Args:
            image_shape: Channels, height and width.
            pixels: The pixel transform.

        Raises:
            DatasetUnfit: The architecture cannot have this image shape.
        """
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
        return GlowArchitecture.model_validate({**shape, **sizes})


MAX_DENSE = 4096
"""Largest number of dimensions D of a dense layer: its D x D matrix takes 128 MiB in float64."""

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
    "max_steps": 125_000,
}


def _twins(size: str, steps: int, width: int, purpose: str) -> list[Preset]:
    return [
        Preset(f"snf-glow-{size}", "glow", SELF_NORMALIZING, purpose, steps, width),
        Preset(f"exact-glow-{size}", "glow", EXACT, f"{purpose}; exact gradient, for comparison", steps, width),
    ]


def _paper(name: str, family: Family, linear: str, **defaults: Any) -> Preset:
    return Preset(name, family, linear, "reproduction of the paper", defaults={**PAPER, **defaults})


def _paper_glow(levels: int, steps: int, weight: float, **defaults: Any) -> list[Preset]:
    size, purpose = f"{levels}l-{steps}k", "reproduction of the paper"
    common = {**PAPER, **defaults}
    learned = {**common, "reconstruction_weight": weight}
    return [
        Preset(f"glow-{size}", "glow", EXACT, purpose, steps, 512, levels, common),
        Preset(f"snf-glow-{size}", "glow", SELF_NORMALIZING, purpose, steps, 512, levels, learned),
    ]


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        *_twins("tiny", 4, 32, "tests, seconds"),
        *_twins("small", 8, 128, "a CPU, minutes to an hour"),
        *_twins("medium", 16, 256, "hours on a CPU"),
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
    )
}


def find_preset(name: str) -> Preset:
    """Return the preset called ``name``. Raises ``PresetNotFound``, which lists all presets, if there is none."""
    if name not in PRESETS:
        raise PresetNotFound(f"no preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]
