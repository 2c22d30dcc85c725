"""Settings of a run, and where its results go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, machine, read_results, write_results
from snf_models.features.backbones import DEFAULT_FOLDER, LITE0, Backbone, BackboneStore
from snf_models.scoring import EngineName, EngineOptions


@dataclass(frozen=True)
class FeatureRun:
    """Settings that all benchmarks of feature models share.

    A quick run only tries the benchmark out: few images, results in ``folder``, where features and flows over pixels
    are kept between runs. ``extras`` are arguments of single benchmarks.
    """

    data_dir: Path
    folder: Path
    threads: int
    engine: EngineName
    quick: bool
    extras: Mapping[str, Any]

    @property
    def options(self) -> EngineOptions:
        return EngineOptions(self.engine, threads=self.threads, cache=self.folder / "compiled")

    @property
    def store(self) -> BackboneStore:
        return BackboneStore(DEFAULT_FOLDER)

    @property
    def backbone(self) -> Backbone:
        return self.store.find(LITE0.name)

    @property
    def key(self) -> str:
        """A part of the names of stored features: the backbone, and the groups of pooled features."""
        return f"{self.backbone.sha256[:12]}-{'+'.join(map(str, self.backbone.pooled_groups))}"

    def some(self, count: int, few: int) -> int:
        """Return a number of images or repetitions: ``few`` where the benchmark is only tried out."""
        return few if self.quick else count

    @property
    def results(self) -> Path:
        return self.folder / "quick" if self.quick else RESULTS

    def known(self, name: str) -> dict[str, Any]:
        """Return the results of earlier runs, or an empty dictionary."""
        found: dict[str, Any] = read_results(self.results / f"features_{name}.json")
        return found

    def write(self, name: str, document: Mapping[str, Any], report: str) -> None:
        write_results(self.results, f"features_{name}", {**document, "machine": machine(self.threads)}, report)
