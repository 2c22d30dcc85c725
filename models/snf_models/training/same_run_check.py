"""Record of a training run, which protects its checkpoints from runs with other settings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from snf_models.disk import write_atomically
from snf_models.errors import FolderTaken
from snf_models.texts import value_text
from snf_models.training.config import TrainingConfig, earlier_settings
from snf_models.training.recipe import TrainingRecipe

FILE = "checkpoints/run.json"
"""The record, beside the checkpoints that belong to it."""


class RunRecord(BaseModel):
    model_config = ConfigDict(frozen=True)

    preset: str  # name of the recipe
    dataset: str
    dataset_digest: str
    config: dict[str, Any]
    architecture: str | None  # SHA-256 with given initial weights; None for a preset
    threads: int | None = None  # of a step, which the last bits of the weights depend on; None if unknown

    @classmethod
    def of(
        cls,
        preset: str,
        dataset: tuple[str, str],
        config: TrainingConfig,
        architecture: BaseModel | None,
        weights: bytes = b"",
    ) -> Self:
        """Make a record. ``dataset`` is name and digest; ``architecture`` is None if the settings determine it."""
        described = None if architecture is None else architecture.model_dump_json().encode() + weights
        return cls(
            preset=preset,
            dataset=dataset[0],
            dataset_digest=dataset[1],
            config=config.model_dump(mode="json"),
            architecture=None if described is None else hashlib.sha256(described).hexdigest(),
        )

    def differences(self, other: RunRecord) -> list[str]:
        """Return a text for each difference; raise ``pydantic.ValidationError`` for settings of another version."""
        pairs: dict[str, tuple[Any, Any]] = {
            "preset": (self.preset, other.preset),
            "dataset": (self.dataset, other.dataset),
        }
        # Settings that an earlier version did not have take their defaults.
        settings = TrainingConfig.model_validate(self.config).model_dump(mode="json")
        pairs |= {name: (value, other.config[name]) for name, value in settings.items()}
        found = [
            f"{name}: expected {value_text(one)}, got {value_text(two)}"
            for name, (one, two) in pairs.items()
            if one != two
        ]
        if self.dataset == other.dataset and self.dataset_digest != other.dataset_digest:
            found.append(f"the images of {self.dataset} have changed")
        if self.preset == other.preset and self.architecture != other.architecture:
            found.append(f"the layers of {self.preset} have changed")
        return found

    def require_same(self, other: RunRecord, folder: Path, state: str) -> None:
        """Raise ``FolderTaken`` with the differences; ``state`` is such as "an interrupted training"."""
        try:
            differences = self.differences(other)
        except ValidationError as error:
            raise FolderTaken(f"{folder} holds {state} of another version of this program") from error
        if differences:
            raise FolderTaken(f"{folder} holds {state} with other settings: {'; '.join(differences)}")


def begun_config(folder: Path, recipe: TrainingRecipe, parameters: Mapping[str, Any]) -> TrainingConfig:
    """Return the settings of a run. A resumed one gets usual defaults for settings that its version did not have."""
    path = folder / FILE
    if not any(path.parent.glob("step-*")):
        return recipe.config(parameters)
    try:
        known = RunRecord.model_validate_json(path.read_bytes()).config
    except (FileNotFoundError, ValidationError):
        known = {}
    missing = {
        name: value for name, value in earlier_settings().items() if name in recipe.parameters and name not in known
    }
    minutes, steps = recipe.defaults.get("max_minutes"), TrainingConfig.model_fields["max_steps"].default
    if minutes is not None and "max_steps" not in recipe.defaults and "max_minutes" not in parameters:
        missing |= {"max_steps": steps} if known.get("max_steps") == steps else {}
    return recipe.config({**missing, **parameters})


def stored_threads(folder: Path, run: RunRecord) -> int | None:
    """Return the threads of the run with checkpoints here, if any; raise ``FolderTaken`` if it is another one."""
    path = folder / FILE
    if not path.exists() or not any(path.parent.glob("step-*")):
        return None
    try:
        earlier = RunRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise FolderTaken(f"{folder} holds checkpoints, and its {path.name} is damaged") from error
    earlier.require_same(run, folder, "an interrupted training")
    return earlier.threads


def claim_folder(folder: Path, run: RunRecord) -> None:
    """Write the record; raise ``FolderTaken`` if the folder has checkpoints of another run."""
    stored_threads(folder, run)
    write_atomically(folder / FILE, run.model_dump_json(indent=1).encode())
