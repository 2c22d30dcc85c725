"""JSON documents that describe a flow, with optional training settings. The module does not import PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from snf_client.schemas.base import NAME_RULE
from snf_client.schemas.training import TrainingConfig
from snf_models.errors import ArchitectureInvalid, DatasetUnfit
from snf_models.flows.architecture import (
    ConvolutionalArchitecture,
    FullyConnectedArchitecture,
    GlowArchitecture,
    LayeredArchitecture,
    LevelSpec,
    PixelArchitecture,
    require_kernel,
)
from snf_models.naming import is_name
from snf_models.pipeline.presets import PRESETS, TrainingRecipe, find_preset, settings_error
from snf_models.texts import plain_text

MAX_BYTES = 2**18
DEFAULT_NAME = "custom"
MAX_SHOWN_ERRORS = 3
SHAPE = ("channels", "height", "width")

FAMILIES: dict[str, type[PixelArchitecture]] = {
    "layers": LayeredArchitecture,
    "glow": GlowArchitecture,
    "convolutional": ConvolutionalArchitecture,
    "fully-connected": FullyConnectedArchitecture,
}


@dataclass(frozen=True)
class ArchitectureFile(TrainingRecipe):
    """Architecture of a flow over pixels with training settings, used like a preset."""

    description: Mapping[str, Any]  # the rest of the document, with or without the shape of the images

    def _architecture(
        self, image_shape: tuple[int, int, int], config: TrainingConfig, backbones: Path | None
    ) -> PixelArchitecture:
        shape = dict(zip(SHAPE, image_shape, strict=True))
        if {**shape, **self.description} != {**self.description, **shape}:
            wanted = "x".join(str(self.description.get(name, shape[name])) for name in SHAPE)
            raise DatasetUnfit(
                f"{self.name} is for images of {wanted}, got {'x'.join(map(str, image_shape))}; set image_size or "
                "colour, or leave channels, height and width out of the architecture"
            )
        document = {**self.description, **shape, "pixel_transform": config.pixel_transform}
        try:
            architecture = FAMILIES[self.family].model_validate(document)
            # Short forms are checked where they are written out.
            architecture.layered()
            require_kernel(architecture)
        except ValidationError as error:
            raise ArchitectureInvalid(sentence(error, document)) from error
        except ValueError as error:
            raise ArchitectureInvalid(str(error)) from error
        return architecture


def read_architecture_file(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise ``ArchitectureInvalid`` if that fails or the file is too large."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ArchitectureInvalid(f"{path.name}: expected a file of at most {MAX_BYTES} bytes, got a larger one")
        document = json.loads(text)
    except OSError as error:
        raise ArchitectureInvalid(f"{path.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ArchitectureInvalid(f"{path.name}: expected JSON, got {error}") from error
    if not isinstance(document, dict):
        raise ArchitectureInvalid(f"{path.name}: expected a JSON object, got {type(document).__name__}")
    return document


def parse_architecture(document: Mapping[str, Any]) -> ArchitectureFile:
    """Check a document without an image shape; raise ``ArchitectureInvalid``, which names the place."""
    if len(json.dumps(document)) > MAX_BYTES:
        raise ArchitectureInvalid(f"expected an architecture of at most {MAX_BYTES} bytes of JSON, got more")
    rest = dict(document)
    name, family = rest.pop("name", DEFAULT_NAME), rest.pop("family", "layers")
    training = rest.pop("training", {})
    if not isinstance(name, str) or not is_name(name):
        raise ArchitectureInvalid(f"name: expected {NAME_RULE}, got {str(name)[:64]!r}")
    if name in PRESETS:
        raise ArchitectureInvalid(f"name: expected another name than that of a preset, got {name!r}")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ArchitectureInvalid(f"family: expected one of {', '.join(FAMILIES)}, got {str(family)[:64]!r}")
    if not isinstance(training, dict):
        raise ArchitectureInvalid(f"training: expected an object of settings, got {type(training).__name__}")
    if "pixel_transform" in rest:
        if "pixel_transform" in training:
            raise ArchitectureInvalid("pixel_transform: expected it once, got it beside training and in it")
        training = {**training, "pixel_transform": rest.pop("pixel_transform")}
    recipe = ArchitectureFile(name, family, rest, defaults=training)
    try:
        recipe.config(training)
    except ValidationError as error:
        raise ArchitectureInvalid(f"training: {settings_error(error, recipe)}") from error
    _check_without_shape(recipe)
    return recipe


def find_recipe(preset: str, architecture: Mapping[str, Any] | None) -> TrainingRecipe:
    """Return the recipe of a document, else the preset; raise ``PresetNotFound``, ``ArchitectureInvalid``."""
    return find_preset(preset) if architecture is None else parse_architecture(architecture)


class _Levels(BaseModel, extra="allow"):
    levels: tuple[LevelSpec, ...]


def _check_without_shape(recipe: ArchitectureFile) -> None:
    """Check what can be checked before the shape of the images is known; raise ``ArchitectureInvalid``."""
    known = FAMILIES[recipe.family].model_fields
    unknown = [key for key in recipe.description if key not in known]
    if unknown:
        raise ArchitectureInvalid(f"expected keys of {', '.join(known)}, name, training, got {unknown[0][:64]!r}")
    if recipe.family == "layers":
        try:
            _Levels.model_validate(recipe.description)
        except ValidationError as error:
            raise ArchitectureInvalid(sentence(error, recipe.description)) from error
    channels, height, width = (recipe.description.get(name) for name in SHAPE)
    if isinstance(channels, int) and isinstance(height, int) and isinstance(width, int):
        recipe.architecture_for((channels, height, width), recipe.config({}))


def document_of(architecture: LayeredArchitecture, name: str, training: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document that :func:`parse_architecture` reads. ``training`` has settings that differ from defaults."""
    described = architecture.model_dump(mode="json", exclude={"family"}, exclude_none=True)
    settings = {key: value for key, value in training.items() if key != "pixel_transform"}
    return {"name": name, **described, "training": settings}


def sentence(error: ValidationError, document: object) -> str:
    """Return the validation errors of a flow architecture as text for an error message.

    The text has the first three errors, each with its level and step where these are known, and the number of further
    errors.

    Args:
        error: The failed validation.
        document: What was validated.
    """
    items = error.errors()
    shown = [(_where(item["loc"], document), plain_text(item)) for item in items[:MAX_SHOWN_ERRORS]]
    texts = [f"{where}: {text}" if where else text for where, text in shown]
    more = [f"and {len(items) - MAX_SHOWN_ERRORS} more"] if len(items) > MAX_SHOWN_ERRORS else []
    return "; ".join(texts + more)


def _where(location: Sequence[int | str], document: object) -> str:
    words: list[str] = []
    at, type_name = document, None
    before: int | str | None = None
    for part in location:
        at = _inside(at, part)
        if isinstance(part, int) and before in ("levels", "steps"):
            nested = before == "steps" and any(word.startswith("step ") for word in words)
            if nested:
                words[-1] += f".{part + 1}"
            else:
                words.append(f"{str(before).removesuffix('s')} {part + 1}")
            type_name = at.get("type") if isinstance(at, Mapping) else None
            if isinstance(type_name, str) and before == "steps":
                words[-1] += f" (`{type_name[:64]}`)"
        elif part not in ("levels", "steps") or part == location[-1]:
            words.append(str(part))
        before = part
    return ", ".join(words)


def _inside(document: Any, part: int | str) -> object:
    try:
        return document[part]
    except (KeyError, IndexError, TypeError):
        return None
