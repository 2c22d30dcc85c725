"""Checkpoints of a training: written atomically, verified by digests when read, and free of executable content."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from snf_client.schemas.training import TrainingConfig
from snf_models.datasets import Dataset
from snf_models.disk import new_folder, sha256_file
from snf_models.flows.architecture import PixelArchitecture
from snf_models.flows.flow import Flow

LATER = ("augmentation", "whitening", "optimizer", "corrected_directions")
"""Settings that earlier versions did not have."""


def earlier_settings() -> dict[str, object]:
    """Return the values that earlier versions used for settings that they did not have."""
    return {name: TrainingConfig.model_fields[name].default for name in LATER}


def identity_of(dataset: Dataset, architecture: PixelArchitecture, config: TrainingConfig, start: Flow | None) -> str:
    """Return a SHA-256 in hexadecimal; ``start`` is None for random weights."""
    # Checkpoints of versions without these settings still belong to their trainings.
    unchanged = {name for name, value in earlier_settings().items() if getattr(config, name) == value}
    described = f"{architecture.model_dump_json()}{config.model_dump_json(exclude=unchanged)}{dataset.digest}"
    return hashlib.sha256(described.encode() + weights_of(start)).hexdigest()


def weights_of(start: Flow | None) -> bytes:
    """Return weights as safetensors, empty for None."""
    if start is None:
        return b""
    # Learned inverses are stored by columns, which the file format does not have.
    return save({name: value.contiguous() for name, value in start.state_dict().items()})


KEPT = 2  # number of newest checkpoints that are kept beside the best one

FILES = ("weights", "averaged", "objective", "optimizer")
"""Files of a checkpoint, without suffix: flow, averaged weights, state of the objective, moments of the optimiser."""
FILES_AT_THE_END = ("averaged",)
"""Files of the checkpoint after the last step, a quarter of the bytes: no step needs the others."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingState:
    """Progress of a training run, as stored in its checkpoints."""

    step: int
    elapsed_seconds: float  # without interruptions
    best_step: int | None
    best_bits_per_dim: float | None
    config_digest: str  # of architecture, configuration and dataset; others are ignored
    first_bits_per_dim: float | None = None  # of the first report, by which a divergence is recognised
    validation_seconds: float = 0.0  # part of ``elapsed_seconds``, with previews and checkpoints
    first_validation: float | None = None  # finite, bits/dim without suspects
    last_validation: float | None = None  # None where it was the first
    last_training: float | None = None  # of training images, if the last validation is worse than the first
    finished: bool = False  # all steps are taken

    @property
    def files(self) -> tuple[str, ...]:
        return FILES_AT_THE_END if self.finished else FILES


def save_checkpoint(
    folder: Path, state: TrainingState, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> Path:
    """Write ``step-NNNNNNNN`` unless it is intact there; keep the two newest of this configuration and the best."""
    path = folder / f"step-{state.step:08d}"
    if path.is_dir() and not _belongs(path, state.config_digest):
        shutil.rmtree(path)
    if not path.is_dir():
        contents = {
            name: _optimizer_tensors(optimizer) if name == "optimizer" else modules[name].state_dict()
            for name in state.files
        }
        size = sum(tensor.nbytes for content in contents.values() for tensor in content.values())
        with new_folder(path, size) as temporary:
            digests = {}
            for name, content in contents.items():
                file = temporary / f"{name}.safetensors"
                save_file({key: value.contiguous() for key, value in content.items()}, file)
                digests[file.name] = sha256_file(file)
            document = {"state": asdict(state), "sha256": digests}
            (temporary / "state.json").write_text(json.dumps(document, indent=1))
    best = None if state.best_step is None else f"step-{state.best_step:08d}"
    # The files of older checkpoints are not read: their digests are verified when one of them is loaded.
    own = [old for old in _paths(folder) if _belongs(old, state.config_digest, verify=False)]
    for old in own[KEPT:]:
        if old.name != best:
            shutil.rmtree(old)
    return path


def load_checkpoint(
    folder: Path, config_digest: str, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> TrainingState | None:
    """Load the newest undamaged checkpoint, of a finished training its averaged weights alone; None without one."""
    for path in _paths(folder):
        state = _read(path)
        if state is None or state.config_digest != config_digest:
            continue
        for name in state.files:
            tensors = load_file(path / f"{name}.safetensors")
            if name == "optimizer":
                _load_optimizer(optimizer, tensors)
            else:
                modules[name].load_state_dict(tensors)
        return state
    return None


def load_averaged(folder: Path, state: TrainingState, averaged: nn.Module) -> int | None:
    """Load the best checkpoint's averaged weights, else the newest undamaged ones; return its step or None."""
    best = [] if state.best_step is None else [folder / f"step-{state.best_step:08d}"]
    for path in [*best, *_paths(folder)]:
        stored = _read(path)
        if stored is not None and stored.config_digest == state.config_digest:
            averaged.load_state_dict(load_file(path / "averaged.safetensors"))
            return stored.step
    return None


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _belongs(path: Path, config_digest: str, *, verify: bool = True) -> bool:
    state = _read(path, verify=verify)
    return state is not None and state.config_digest == config_digest


def _read(path: Path, *, verify: bool = True) -> TrainingState | None:
    """Return the state of a checkpoint, or None if it, or a file to verify, is missing or damaged."""
    try:
        document = json.loads((path / "state.json").read_text())
        state = TrainingState(**document["state"])
        for name in state.files if verify else ():
            file = path / f"{name}.safetensors"
            if sha256_file(file) != document["sha256"][file.name]:
                raise ValueError(f"{file.name} does not have its digest")
        if path.name != f"step-{state.step:08d}":
            raise ValueError(f"state.json is that of step {state.step}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("ignoring the damaged checkpoint %s: %s", path, error)
        return None
    return state


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    entries = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, entry in entries.items() for key, value in entry.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    # The fused step reads moments and parameters in the order of their memory, so their strides must be equal.
    for parameter, entry in optimizer.state.items():
        for key, value in entry.items():
            if value.shape == parameter.shape:
                entry[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)
