"""Detection limits: the smallest injected defects that models of pixels, of features and of both find."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich.console import Console

from benchmarks.common import table
from benchmarks.features.cells import SolarCells, pixel_flow
from benchmarks.features.common import FeatureRun
from benchmarks.features.fitted import trained_on
from snf_client.schemas.limits import LimitCurve, LimitParameters, LimitRecord
from snf_models.anomaly.calibrate import calibrate
from snf_models.anomaly.reference_images import EvenlySpaced, ReferenceImages
from snf_models.artifacts.manifest import LogDets, Manifest
from snf_models.datasets import Dataset, load_dataset
from snf_models.datasets.dataset import digest_of
from snf_models.features.flows import FeatureFlows, HybridFlows, TrainedFlows
from snf_models.flows.architecture import Architecture, FeatureArchitecture, HybridArchitecture, PixelArchitecture
from snf_models.flows.flow import Flow
from snf_models.limits.card import limit_text
from snf_models.limits.good_images import STATISTICS, GoodImages
from snf_models.limits.measure import measure_limits
from snf_models.loading.trained import Artifact, load_artifact
from snf_models.registry.registry import ZOO
from snf_models.scorer import Scorer
from snf_models.scoring.open_density import log_dets_of, open_density

NAME = "limits"
Kind = Literal["pixel model", "feature model", "hybrid"]
KINDS: tuple[Kind, ...] = ("pixel model", "feature model", "hybrid")
CELLS = "elpv"
SHIPPED = {"fashion-mnist": "fashion-snf-glow", "mnist": "mnist-snf-glow"}
ALPHA, IMAGES = 0.01, 200


@dataclass(frozen=True)
class Parts:
    """Flows over pixels and over features of one dataset, of which the three kinds of models are made."""

    dataset: Dataset
    features: Artifact
    pixels: Flow
    architecture: PixelArchitecture
    digest: str

    @classmethod
    def of(cls, run: FeatureRun, name: str) -> Parts:
        """Return the flows for a dataset: pixels from the zoo or, of solar cells, trained; features fitted."""
        if name == CELLS:
            split = SolarCells.load(run).split(seed=0)
            digest = digest_of(split.train, split.statistics, split.calibration)
            dataset = Dataset(CELLS, split.train, split.statistics, split.calibration, split.test[:0], digest)
            minutes = run.extras["pixel_minutes"]
            flow, architecture = pixel_flow(run, split, minutes)
            pixels: tuple[Any, ...] = flow, architecture, f"{digest[:32]}-{minutes:g}"
        else:
            whole = load_dataset(name, run.data_dir)
            train = EvenlySpaced([whole.train], run.some(run.extras["train"], 60))[:]
            most = run.some(len(whole.statistics), 100)
            parts = train, whole.statistics[:most], whole.calibration[: run.some(len(whole.calibration), 100)]
            dataset = Dataset(name, *parts, whole.test[:0], digest_of(*parts))
            shipped = load_artifact(ZOO / SHIPPED[name] / "1")
            pixels = shipped.flow, shipped.manifest.architecture, shipped.manifest.log_dets.weights_sha256
        return cls(dataset, load_artifact(trained_on(run, dataset)), *pixels)

    def scorer(self, run: FeatureRun, kind: Kind) -> Scorer:
        """Return a model of one kind, calibrated on the statistics and calibration parts without gradients."""
        features = self.features.flow
        assert isinstance(features, FeatureFlows)
        if kind == "feature model":
            return Scorer.of(self.features, options=run.options)
        if kind == "pixel model":
            return self._calibrated(run, self.pixels, self.architecture)
        of_features = self.features.manifest.architecture
        assert isinstance(of_features, FeatureArchitecture)
        _, height, width = self.dataset.image_shape
        joined = HybridArchitecture(
            channels=of_features.channels,
            height=height,
            width=width,
            pixels=self.architecture,
            features=of_features,
        )
        return self._calibrated(run, HybridFlows(self.pixels, features).eval(), joined)

    def _calibrated(self, run: FeatureRun, flows: TrainedFlows, architecture: Architecture) -> Scorer:
        layers = log_dets_of(flows, architecture)
        density = open_density(flows, architecture, layers, self.digest, run.options)
        dataset = self.dataset
        reference = ReferenceImages(dataset.name, dataset.digest, dataset.statistics, dataset.calibration)
        pinned = self.features.pinned
        calibration, summary = calibrate(density, reference, pinned[0], lambda _part, _done, _images: None)
        log_dets = LogDets(layers=layers, total=sum(layers.values()), weights_sha256=self.digest)
        changes: dict[str, Any] = {"architecture": architecture, "log_dets": log_dets, "calibration": summary}
        manifest: Manifest = self.features.manifest.model_copy(update=changes)
        artifact = replace(self.features, manifest=manifest, flow=flows, calibration=calibration)
        return Scorer.of(artifact, summary, run.options)


def measure(run: FeatureRun) -> None:
    """Measure every model that has no result yet, and write after each."""
    document = {"datasets": {}, **run.known(NAME), "alpha": ALPHA}
    console = Console(stderr=True)
    for name in (CELLS, *SHIPPED):
        rows = document["datasets"].setdefault(name, {})
        missing = [kind for kind in KINDS if kind not in rows]
        parts = Parts.of(run, name) if missing else None
        for kind in missing:
            assert parts is not None
            rows[kind] = limits_of(run, parts, kind).model_dump(mode="json")
            console.print(f"{name}, {kind}: {rows[kind]['seconds']:.0f} s")
            run.write(NAME, document, report(document))
    run.write(NAME, document, report(document))
    print(report(document))


def limits_of(run: FeatureRun, parts: Parts, kind: Kind) -> LimitRecord:
    """Return the detection limits of one kind of model on statistics images; an earlier run is gone on with."""
    count = run.some(IMAGES, 40)
    good = GoodImages(parts.dataset.name, STATISTICS, EvenlySpaced([parts.dataset.statistics], count)[:])
    folder = run.folder / ("quick" if run.quick else "limits") / f"{parts.dataset.name}-{kind.replace(' ', '-')}"
    parameters = LimitParameters(alpha=ALPHA, images=count)
    record = measure_limits(parts.scorer(run, kind), good, parameters, folder=folder)
    shutil.rmtree(folder)
    return record


def report(document: dict[str, Any]) -> str:
    lines = [
        "# Detection limits of injected defects",
        "",
        f"The smallest size from which on at least 90 % of the defects are found at a false-alarm rate of "
        f"{document['alpha']:.0%}, with a confidence of 95 %, in pixels of the images. In brackets the share that is "
        "found at the largest size, where it is no limit.",
    ]
    for name, rows in document["datasets"].items():
        kinds = {kind: LimitRecord.model_validate(row) for kind, row in rows.items()}
        if not kinds:
            continue
        first = next(iter(kinds.values()))
        _, height, width = first.image_shape
        curves = zip(*(record.curves for record in kinds.values()), strict=True)
        cells = [(of_kinds[0].label, *map(_cell, of_kinds)) for of_kinds in curves]
        alarms = (f"{record.undamaged.flagged} of {record.images}" for record in kinds.values())
        lines += [
            "",
            f"## {name}, {height}x{width}",
            "",
            f"{first.images} images of the {first.part}; sizes {', '.join(map(str, first.sizes))}; seed {first.seed}.",
            "",
            *table(("defect", *kinds), [*cells, ("flagged without a defect", *alarms)]),
        ]
        lines += [
            f"\n{kind}: not determinable, {record.not_determinable}."
            for kind, record in kinds.items()
            if record.not_determinable
        ]
    return "\n".join(lines) + "\n"


def _cell(curve: LimitCurve) -> str:
    largest = curve.cells[-1]
    return limit_text(curve) if curve.limit is not None else f"none ({largest.share:.0%} at {largest.size})"
