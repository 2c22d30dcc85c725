"""Export of a model to a folder, from which ``snf_runtime`` scores images."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snf_models.artifacts.files import CARD as ARTIFACT_CARD
from snf_models.artifacts.files import read_file
from snf_models.disk import new_folder, sha256_file
from snf_models.errors import ArtifactError, EngineUnavailable
from snf_models.exports.serialized import serialized
from snf_models.features.backbones import DEFAULT_FOLDER, LITE0, Backbone, BackboneStore
from snf_models.features.backbones import NOTICE as LITE0_NOTICE
from snf_models.flows.architecture import FeatureArchitecture, HybridArchitecture
from snf_models.loading.verification import statistic_tolerance
from snf_models.registry.registry import ModelVersion
from snf_models.scorer import Scorer
from snf_models.scoring.cache import described_pixels
from snf_models.scoring.frozen import FrozenFlow
from snf_models.scoring.open_density import openvino_obstacle
from snf_models.scoring.openvino_features import FeatureGraphs, open_network
from snf_models.scoring.openvino_graph import forward_graph
from snf_runtime.anomaly.calibration import to_arrays
from snf_runtime.exported.content import CALIBRATION, MASSES, PINNED
from snf_runtime.exported.manifest import (
    ARRAYS,
    CARD,
    FILE,
    NOTICE,
    ExportedCalibration,
    ExportedFeatures,
    ExportedFile,
    ExportedPinned,
    ExportedPixels,
    ExportManifest,
    GraphFormat,
    read_export_manifest,
)
from snf_runtime.scoring.layout import FeatureLayout, MarginalFunction

TEXT_BYTES = 2**22
"""Room on the disk for the texts of an export: manifest, model card and notice."""


def export_model(
    version: ModelVersion, scorer: Scorer, folder: Path, form: GraphFormat, *, overwrite: bool = False
) -> ExportManifest:
    """Export a model, whole or not at all, without samples and provenance; raise ``EngineUnavailable``."""
    arrays: dict[str, NDArray[Any]] = {PINNED: scorer.pinned[:1]}
    graphs: dict[str, Any] = {}
    pixels = features = None
    if scorer.trained.pixels is not None:
        frozen = scorer.trained.pixels.engine.frozen
        graphs["pixels"], pixels = pixel_part(frozen)
        if isinstance(frozen.pixel_function, MarginalFunction):
            arrays[MASSES] = frozen.pixel_function.masses
    backbone = _backbone(scorer)
    if backbone is not None:
        graphs["features"], features = _features(scorer, *backbone)
    arrays |= to_arrays(replace(scorer.calibration, white_levels=None), CALIBRATION)
    content = {name: serialized(graph, form) for name, graph in graphs.items()}
    size = sum(len(data) for files in content.values() for data in files.values())
    size += sum(array.nbytes for array in arrays.values()) + TEXT_BYTES
    with new_folder(folder, size, replace=overwrite) as temporary:
        for name, files in content.items():
            for ending, data in files.items():
                (temporary / f"{name}{ending}").write_bytes(data)
        with zipfile.ZipFile(temporary / ARRAYS, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        (temporary / CARD).write_bytes(read_file(version.path, ARTIFACT_CARD))
        (temporary / NOTICE).write_text(_notice(version, backbone and backbone[2]), encoding="utf-8")
        manifest = ExportManifest(
            format_version=1,
            name=version.name,
            version=version.version,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            kind=scorer.density.kind,
            format=form,
            precision=scorer.density.precision,
            weights_sha256=scorer.log_det_digest,
            preprocessing=scorer.preprocessing,
            pixels=pixels,
            features=features,
            calibration=_calibration(version, scorer),
            pinned=_pinned(scorer),
            files={
                path.name: ExportedFile(path.stat().st_size, sha256_file(path)) for path in sorted(temporary.iterdir())
            },
        )
        (temporary / FILE).write_text(manifest.to_json(), encoding="utf-8")
        if overwrite and folder.exists():
            require_export(folder)
    return manifest


def require_export(folder: Path) -> None:
    """Raise ``ArtifactError`` unless a folder holds only an exported model, so that it may be replaced."""
    if folder.is_symlink():
        raise ArtifactError(f"expected a folder, got the link {folder}")
    expected = read_export_manifest(folder).expected_files() | {FILE}
    for path in sorted(folder.iterdir()):
        if path.name not in expected or path.is_symlink() or not path.is_file():
            raise ArtifactError(f"expected only the files of an export, got {path.name}")


def pixel_part(frozen: FrozenFlow) -> tuple[Any, ExportedPixels]:
    """Return the graph of a pixel flow, for one image, and its description; raise ``EngineUnavailable``."""
    if reason := openvino_obstacle(frozen):
        raise EngineUnavailable(f"the flow over pixels cannot be exported: {reason}")
    graph = forward_graph(frozen, 1)
    described = described_pixels(frozen, graph.outputs)
    if described is None:
        raise EngineUnavailable("expected a pixel transform that is affine, logit or marginal, got one of its own")
    return graph.model, described


def _backbone(scorer: Scorer) -> tuple[FeatureArchitecture, BackboneStore, Backbone] | None:
    architecture = scorer.manifest.architecture
    if isinstance(architecture, HybridArchitecture):
        architecture = architecture.features
    if not isinstance(architecture, FeatureArchitecture):
        return None
    store = BackboneStore(scorer.options.backbones or DEFAULT_FOLDER)
    return architecture, store, store.by_digest(architecture.backbone, architecture.backbone_sha256)


def _features(
    scorer: Scorer, architecture: FeatureArchitecture, store: BackboneStore, backbone: Backbone
) -> tuple[Any, ExportedFeatures]:
    flows = scorer.trained.features
    assert flows is not None
    shape, size = architecture.image_shape, architecture.input_size
    graph = FeatureGraphs(open_network(store, backbone), backbone, shape, size, flows)(1)
    layout = FeatureLayout(flows.feature_shape, flows.constant_log_det)
    return graph.model, ExportedFeatures(layout, size, backbone.name, backbone.license, backbone.origin)


def _calibration(version: ModelVersion, scorer: Scorer) -> ExportedCalibration:
    summary = scorer.calibration_summary
    worst = None if summary.deviation is None else summary.deviation.worst
    return ExportedCalibration(
        version.calibration, summary.dataset, scorer.calibration.images, scorer.calibration.smallest_p, worst
    )


def _pinned(scorer: Scorer) -> ExportedPinned:
    score = scorer.score(scorer.pinned[:1])[0]
    statistic = scorer.verdicts([score])[0].statistic
    return ExportedPinned(
        score.log_likelihood,
        scorer.tolerance(score.log_likelihood),
        statistic,
        statistic_tolerance(statistic, scorer.calibration_summary),
    )


def _notice(version: ModelVersion, backbone: Backbone | None) -> str:
    lines = [f"{version.name}:{version.version}, exported by snf-density.", ""]
    if backbone is not None:
        lines += [
            f"The graph of features holds weights of the backbone {backbone.name}, and the flows of the model.",
            f"Licence: {backbone.license or 'not stated'}",
            f"Origin: {backbone.origin or 'not stated'}",
        ]
        if backbone.sha256 == LITE0.sha256:
            lines += LITE0_NOTICE
    return "\n".join(lines) + "\n"
