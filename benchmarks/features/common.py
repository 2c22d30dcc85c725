"""Settings of a run, and where its results go."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.machine import describe
from snf_models.disk import write_atomically
from snf_models.features.backbones import DEFAULT_FOLDER, LITE0, Backbone, BackboneStore
from snf_models.scoring.options import EngineName, EngineOptions

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class FeatureRun:
    """Settings that all benchmarks of feature models share.

    Attributes:
        data_dir: Folder of the datasets.
        folder: Folder of what is kept between runs: features, evidence, flows over pixels.
        seeds: Random splits, seeds 0, 1, ...
        threads: Threads on the CPU.
        engine: The engine: "auto", "openvino" or "torch".
        quick: Whether the run only tries the benchmark out: few images, results in ``folder``.
        extras: Arguments of single benchmarks.
    """

    data_dir: Path
    folder: Path
    seeds: int
    threads: int
    engine: EngineName
    quick: bool
    extras: Mapping[str, Any]

    @property
    def options(self) -> EngineOptions:
        """Options of every engine."""
        return EngineOptions(self.engine, threads=self.threads, cache=self.folder / "compiled")

    @property
    def store(self) -> BackboneStore:
        """The backbones of this machine."""
        return BackboneStore(DEFAULT_FOLDER)

    @property
    def backbone(self) -> Backbone:
        """The default backbone."""
        return self.store.find(LITE0.name)

    @property
    def key(self) -> str:
        """A part of the names of stored features: the backbone, and the groups of pooled features."""
        return f"{self.backbone.sha256[:12]}-{'+'.join(map(str, self.backbone.pooled_groups))}"

    def some(self, count: int, few: int) -> int:
        """Return a number of images or repetitions: ``few`` where the benchmark is only tried out."""
        return few if self.quick else count

    def results(self, name: str, suffix: str) -> Path:
        """Return the path of the results called ``name``."""
        return (self.folder / "quick" if self.quick else RESULTS) / f"features_{name}.{suffix}"

    def known(self, name: str) -> dict[str, Any]:
        """Return the results of earlier runs, or an empty dictionary."""
        path = self.results(name, "json")
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def write(self, name: str, document: Mapping[str, Any], report: str) -> None:
        """Write results as JSON and as Markdown."""
        document = {**document, "machine": describe(self.threads)}
        write_atomically(self.results(name, "json"), (json.dumps(document, indent=1) + "\n").encode())
        write_atomically(self.results(name, "md"), report.encode())


def run_of(arguments: Mapping[str, Any]) -> FeatureRun:
    """Return the settings from the arguments of the command line."""
    own = {"data_dir", "folder", "seeds", "threads", "engine", "quick"}
    extras = {key: value for key, value in arguments.items() if key not in own}
    # For this process, in which torch is loaded already, and for those that it starts.
    torch.set_num_threads(arguments["threads"])
    os.environ["OMP_NUM_THREADS"] = str(arguments["threads"])
    return FeatureRun(**{key: arguments[key] for key in own}, extras=extras)
