"""Conversion of OpenVINO graphs to ONNX node by node, equal to the bit but for reconstruction errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from snf_models.errors import EngineUnavailable

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


def onnx_model(model: Any) -> bytes:
    """Return an ``ov.Model`` as an ONNX file; raise ``EngineUnavailable`` without ``onnx``, or for an unknown node."""
    return _Writer(model).file()


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
        self._add("ReduceMean", node, self._inputs_of(node)[:1], axes=axes, keepdims=int(_keeps(node)))

    def _sum(self, node: Any) -> None:
        axes = self._number(node, "axes", _data(node, 1).reshape(-1).astype(np.int64))
        self._add("ReduceSum", node, [self._inputs_of(node)[0], axes], keepdims=int(_keeps(node)))

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


def _keeps(node: Any) -> bool:
    return bool(node.get_attributes()["keep_dims"])


def _axis(node: Any, axis: int) -> int:
    return axis % len(node.input_value(0).get_shape())


def _data(node: Any, index: int) -> Any:
    source = node.input_value(index).get_node()
    if source.get_type_name() != "Constant":
        raise EngineUnavailable(f"expected constant sizes for {node.get_type_name()}; use the format openvino")
    return source.data
