"""Export of a model to a folder of OpenVINO or ONNX graphs and arrays, from which ``snf_runtime`` scores images."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snf_models.artifacts.files import CARD as ARTIFACT_CARD
from snf_models.artifacts.files import read_file
from snf_models.disk import new_folder, sha256_file
from snf_models.errors import ArtifactError, EngineUnavailable
from snf_models.features.backbones import DEFAULT_FOLDER, LITE0, Backbone, BackboneStore
from snf_models.features.backbones import NOTICE as LITE0_NOTICE
from snf_models.flows.architecture import FeatureArchitecture, HybridArchitecture
from snf_models.loading.prepared import described_pixels
from snf_models.loading.verification import statistic_tolerance
from snf_models.registry.registry import ModelVersion
from snf_models.scorer import Scorer
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

if TYPE_CHECKING:
    import onnx


OPSET, IR_VERSION = 13, 8
TYPES = {"f32": "FLOAT", "u8": "UINT8", "i32": "INT32", "i64": "INT64", "boolean": "BOOL", "bf16": "BFLOAT16"}
"""Types of tensors in ONNX by their names in OpenVINO."""
SAME = {
    "Abs": "Abs", "Add": "Add", "Divide": "Div", "Exp": "Exp", "GreaterEqual": "GreaterOrEqual", "Less": "Less",
    "Log": "Log", "MatMul": "MatMul", "Multiply": "Mul", "Negative": "Neg", "Relu": "Relu", "Select": "Where",
    "Sigmoid": "Sigmoid", "Subtract": "Sub", "Tanh": "Tanh",
}  # fmt: skip
"""Operations whose inputs are the same, by their names in OpenVINO."""


class _Writer:
    """A graph of ONNX that grows by the nodes of a graph of OpenVINO."""

    def __init__(self, model: Any) -> None:
        self._onnx = _library()
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: dict[int, onnx.ValueInfoProto] = {}
        self._places = {node.get_name(): number for number, node in enumerate(model.get_results())}
        self._names: dict[str, str] = {}
        special: dict[str, Callable[[Any], None]] = {
            "AvgPool": self._average, "Clamp": self._clamp, "Concat": self._concat, "Constant": self._constant,
            "Convert": self._convert, "Convolution": self._convolution, "Gather": self._gather,
            "GroupConvolution": self._convolution, "Interpolate": self._resize, "Parameter": self._parameter,
            "ReduceMean": self._mean, "ReduceSum": self._sum, "Reshape": self._reshape, "Result": self._result,
            "SpaceToDepth": self._space_to_depth, "Split": self._split, "Transpose": self._transpose,
            "VariadicSplit": self._split,
        }  # fmt: skip
        for number, node in enumerate(model.get_ordered_ops()):
            self._names[node.get_name()] = f"n{number}"
            kind = node.get_type_name()
            if kind in special:
                special[kind](node)
            elif kind in SAME and not any(node.get_attributes().get(f"transpose_{side}") for side in "ab"):
                self._add(SAME[kind], node, self._inputs_of(node))
            else:
                raise EngineUnavailable(
                    f"the operation {kind} has no form in ONNX here: expected one of "
                    f"{', '.join(sorted(special.keys() | SAME.keys()))}; use the format openvino"
                )

    def file(self) -> bytes:
        outputs = [self._outputs[place] for place in range(len(self._outputs))]
        helper = self._onnx.helper
        graph = helper.make_graph(self._nodes, "snf", self._inputs, outputs, self._constants)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="snf-density")
        self._onnx.checker.check_model(model)
        content: bytes = model.SerializeToString()
        return content

    def _parameter(self, node: Any) -> None:
        self._inputs.append(self._value(self._outputs_of(node)[0], node.output(0)))

    def _result(self, node: Any) -> None:
        place = self._places[node.get_name()]
        name = f"output-{place}"
        self._nodes.append(self._onnx.helper.make_node("Identity", self._inputs_of(node), [name]))
        self._outputs[place] = self._value(name, node.output(0))

    def _constant(self, node: Any) -> None:
        self._keep(self._outputs_of(node)[0], node.data)

    def _convert(self, node: Any) -> None:
        self._add("Cast", node, self._inputs_of(node), to=self._type(node.output(0)))

    def _convolution(self, node: Any) -> None:
        given = node.get_attributes()
        x, kernel = self._inputs_of(node)
        groups = 1
        if node.get_type_name() == "GroupConvolution":
            groups, outputs, *rest = node.input_value(1).get_shape()
            kernel = self._reshaped(node, kernel, [groups * outputs, *rest])
        self._add("Conv", node, [x, kernel], **_pads(given), dilations=given["dilations"], group=int(groups))

    def _average(self, node: Any) -> None:
        given = node.get_attributes()
        if not given["exclude-pad"] or given["rounding_type"] != "floor":
            raise EngineUnavailable("a mean over pixels beyond the edge has no form in ONNX here; use openvino")
        self._add("AveragePool", node, self._inputs_of(node), **_pads(given), kernel_shape=given["kernel"])

    def _clamp(self, node: Any) -> None:
        given = node.get_attributes()
        bounds = [self._number(node, side, np.float32(given[side])) for side in ("min", "max")]
        self._add("Clip", node, [*self._inputs_of(node), *bounds])

    def _concat(self, node: Any) -> None:
        self._add("Concat", node, self._inputs_of(node), axis=_axis(node, node.get_attributes()["axis"]))

    def _gather(self, node: Any) -> None:
        data, places, _ = self._inputs_of(node)
        self._add("Gather", node, [data, places], axis=_axis(node, int(_data(node, 2))))

    def _resize(self, node: Any) -> None:
        given = node.get_attributes()
        wanted = ("linear_onnx", "half_pixel", False)
        if (given["mode"], given["coordinate_transformation_mode"], given["antialias"]) != wanted:
            raise EngineUnavailable(f"a resizing by {given['mode']} has no form in ONNX here; use openvino")
        sizes = self._number(node, "sizes", np.array(node.get_output_shape(0), dtype=np.int64))
        inputs = [self._inputs_of(node)[0], "", "", sizes]
        self._add("Resize", node, inputs, mode="linear", coordinate_transformation_mode="half_pixel")

    def _mean(self, node: Any) -> None:
        axes = [_axis(node, axis) for axis in _data(node, 1).reshape(-1).tolist()]
        self._add("ReduceMean", node, self._inputs_of(node)[:1], axes=axes, keepdims=_keeps(node))

    def _sum(self, node: Any) -> None:
        axes = self._number(node, "axes", _data(node, 1).reshape(-1).astype(np.int64))
        self._add("ReduceSum", node, [self._inputs_of(node)[0], axes], keepdims=_keeps(node))

    def _reshape(self, node: Any) -> None:
        # The sides as they are given, -1 among them: for others OpenVINO computes in another order.
        shape = self._number(node, "shape", _data(node, 1).reshape(-1).astype(np.int64))
        self._add("Reshape", node, [self._inputs_of(node)[0], shape])

    def _space_to_depth(self, node: Any) -> None:
        given = node.get_attributes()
        block, (images, channels, height, width) = int(given["block_size"]), node.input_value(0).get_shape()
        if given["mode"] != "depth_first":
            raise EngineUnavailable("a squeeze with blocks first has no form in ONNX here; use openvino")
        sides = [images, channels, height // block, block, width // block, block]
        apart, moved = self._reshaped(node, self._inputs_of(node)[0], sides), f"{self._outputs_of(node)[0]}.moved"
        self._nodes.append(self._onnx.helper.make_node("Transpose", [apart], [moved], perm=[0, 1, 3, 5, 2, 4]))
        shape = self._number(node, "shape", np.array(node.get_output_shape(0), dtype=np.int64))
        self._add("Reshape", node, [moved, shape])

    def _split(self, node: Any) -> None:
        axis = _axis(node, int(_data(node, 1)))
        lengths = np.array([output.get_shape()[axis] for output in node.outputs()], dtype=np.int64)
        self._add("Split", node, [self._inputs_of(node)[0], self._number(node, "lengths", lengths)], axis=axis)

    def _transpose(self, node: Any) -> None:
        self._add("Transpose", node, self._inputs_of(node)[:1], perm=_data(node, 1).reshape(-1).tolist())

    def _add(self, kind: str, node: Any, inputs: Sequence[str], **attributes: Any) -> None:
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, self._outputs_of(node), **attributes))

    def _reshaped(self, node: Any, name: str, sides: Sequence[int]) -> str:
        shape = self._number(node, "sides", np.array(list(sides), dtype=np.int64))
        result = f"{self._outputs_of(node)[0]}.reshaped"
        self._nodes.append(self._onnx.helper.make_node("Reshape", [name, shape], [result]))
        return result

    def _number(self, node: Any, suffix: str, values: Any) -> str:
        name = f"{self._outputs_of(node)[0]}.{suffix}"
        self._keep(name, values)
        return name

    def _keep(self, name: str, values: Any) -> None:
        self._constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))

    def _inputs_of(self, node: Any) -> list[str]:
        return [f"{self._names[value.get_node().get_name()]}.{value.get_index()}" for value in node.input_values()]

    def _outputs_of(self, node: Any) -> list[str]:
        return [f"{self._names[node.get_name()]}.{index}" for index in range(node.get_output_size())]

    def _value(self, name: str, port: Any) -> onnx.ValueInfoProto:
        value: onnx.ValueInfoProto = self._onnx.helper.make_tensor_value_info(
            name, self._type(port), list(port.get_shape())
        )
        return value

    def _type(self, port: Any) -> int:
        kind = port.get_element_type().get_type_name()
        if kind not in TYPES:
            raise EngineUnavailable(
                f"tensors of the type {kind} have no form in ONNX here: expected one of {', '.join(sorted(TYPES))}; "
                "use the format openvino"
            )
        return int(getattr(self._onnx.TensorProto, TYPES[kind]))


def _library() -> Any:
    try:
        import onnx  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise EngineUnavailable("the format onnx needs the extra onnx: pip install 'snf-density[onnx]'") from error
    return onnx


def _pads(given: dict[str, Any]) -> dict[str, Any]:
    if given["auto_pad"] != "explicit":
        raise EngineUnavailable(f"a padding of the kind {given['auto_pad']} has no form in ONNX here; use openvino")
    return {"pads": [*given["pads_begin"], *given["pads_end"]], "strides": list(given["strides"])}


def _keeps(node: Any) -> int:
    return int(node.get_attributes()["keep_dims"])


def _axis(node: Any, axis: int) -> int:
    return axis % len(node.input_value(0).get_shape())


def _data(node: Any, index: int) -> Any:
    source = node.input_value(index).get_node()
    if source.get_type_name() != "Constant":
        raise EngineUnavailable(f"expected constant sizes for {node.get_type_name()}; use the format openvino")
    return source.data


def serialized(model: Any, form: GraphFormat) -> dict[str, bytes]:
    """Return an ``ov.Model`` as files by ending; raise ``EngineUnavailable`` without ``onnx``, or for an unknown node.

    OpenVINO writes ``.xml`` of nodes and ``.bin`` of constants, uncompressed: the graph gives the same bits.
    """
    if form == "onnx":
        return {".onnx": _Writer(model).file()}
    from snf_runtime.scoring.openvino_engine import ov  # noqa: PLC0415 - OpenVINO takes time to load

    with tempfile.TemporaryDirectory(prefix="snf-export-") as scratch:
        path = Path(scratch) / "graph.xml"
        ov.serialize(model, path)
        return {ending: path.with_suffix(ending).read_bytes() for ending in (".xml", ".bin")}


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
