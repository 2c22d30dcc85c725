"""Feature backbones as OpenVINO nodes, from EfficientNet-Lite0 weights or an ONNX file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from snf_models.errors import BackboneUnfit
from snf_models.features.backbones import BLOCKS, Arrays, Backbone, BackboneOutput, BackboneStore, same_padding
from snf_models.scoring.engines.openvino_graph import Node, constant
from snf_runtime.scoring.engines.openvino_library import FrontEndManager, op, ov

log = logging.getLogger(__name__)

Network = Callable[[Node], dict[str, Node]]
"""A function from a normalised image, float32 ``(1, 3, H, W)``, to the tensors of a network by their names."""


def open_network(store: BackboneStore, backbone: Backbone) -> Network:
    """Open a backbone whose digest is checked, shared by all graphs; raise ``BackboneUnfit`` for damaged weights."""
    if backbone.format == "onnx":
        store.verified(backbone)
        return _onnx(store.path(backbone), backbone)
    return _lite0(store.arrays(backbone))


def outputs_of(network: Network, backbone: Backbone, image: Node) -> tuple[list[Node], Node]:
    """Return the nodes of the feature maps and the deepest one; ``BackboneUnfit`` if one is not as described."""
    _, _, height, width = image.get_shape()
    tensors = network(image)

    def chosen(output: BackboneOutput) -> Node:
        if output.name not in tensors:
            raise BackboneUnfit(f"the backbone {backbone.name} has no tensor {output.name!r}")
        node, expected = tensors[output.name], [1, output.channels, height // output.stride, width // output.stride]
        found, kind = node.get_partial_shape(), node.get_element_type()
        if found.is_dynamic or list(found.to_shape()) != expected or kind != ov.Type.f32:
            raise BackboneUnfit(
                f"expected {output.name!r} of the backbone {backbone.name} to be f32 {expected} for images of "
                f"{height}x{width}, got {kind.get_type_name()} {found}"
            )
        return node

    return [chosen(output) for output in backbone.maps], chosen(backbone.pooled)


def _lite0(weights: Arrays) -> Network:
    """Return EfficientNet-Lite0, with a tensor for the result of each block, ``blocks.<n>``."""
    kernels = {
        # The kernel of each channel of a depthwise convolution is a group.
        name: constant(array[:, None] if name.endswith("depthwise.weight") else array)
        for name, array in weights.items()
        if array.ndim == 4
    }

    def convolve(name: str, x: Node, stride: int = 1) -> Node:
        kernel = kernels[f"{name}.weight"]
        # OpenVINO adds a bias within the convolution only if no other convolution has the same node for it.
        bias = constant(weights[f"{name}.bias"].reshape(1, -1, 1, 1))
        pads = [same_padding(int(side), weights[f"{name}.weight"].shape[2], stride) for side in list(x.get_shape())[2:]]
        convolution = op.group_convolution if name.endswith("depthwise") else op.convolution
        before, after = [pad[0] for pad in pads], [pad[1] for pad in pads]
        return op.add(convolution(x, kernel, [stride, stride], before, after, [1, 1]), bias).output(0)

    def bounded(x: Node) -> Node:
        return op.clamp(x, 0.0, 6.0).output(0)

    def network(image: Node) -> dict[str, Node]:
        results: dict[str, Node] = {}
        x = bounded(convolve("stem", image, 2))
        for number, block in enumerate(BLOCKS):
            name, y = f"blocks.{number}", x
            if block.expansion > 1:
                y = bounded(convolve(f"{name}.expand", y))
            y = bounded(convolve(f"{name}.depthwise", y, block.stride))
            y = convolve(f"{name}.project", y)
            x = results[name] = op.add(x, y).output(0) if block.residual else y
        return results

    return network


def _onnx(path: Path, backbone: Backbone) -> Network:
    """Return the network of an ONNX file, with all of its tensors that have names."""
    frontend = FrontEndManager().load_by_framework("onnx")
    try:
        # External weights come from the folder of the file alone; for a file in memory, from the working folder.
        whole = frontend.convert(frontend.load(str(path)))
    except Exception as error:  # The errors of a frontend have no class in common.
        log.warning("OpenVINO cannot read the ONNX file of the backbone %s: %s", backbone.name, error)
        raise BackboneUnfit(
            f"OpenVINO cannot read the ONNX file of the backbone {backbone.name}; the log has its reason"
        ) from error
    inputs = [(port.get_names(), port.get_element_type().get_type_name()) for port in whole.inputs]
    if len(inputs) != 1 or backbone.input not in inputs[0][0] or inputs[0][1] != "f32":
        given = ", ".join(f"{'/'.join(sorted(names))!r} of {kind}" for names, kind in inputs)
        raise BackboneUnfit(
            f"expected the backbone {backbone.name} to have one input, {backbone.input!r} of f32, got {given or 'none'}"
        )

    def network(image: Node) -> dict[str, Node]:
        model = whole.clone()
        try:
            model.reshape(image.get_partial_shape())
        except RuntimeError as error:
            log.warning("OpenVINO cannot run the ONNX file of the backbone %s: %s", backbone.name, error)
            raise BackboneUnfit(
                f"expected the backbone {backbone.name} to take images of shape {list(image.get_shape())}; the log has "
                "the reason why it does not"
            ) from error
        model.input(0).replace(image)
        ports = [port for node in model.get_ordered_ops() for port in node.outputs()]
        return {name: port for port in ports for name in port.get_names()}

    return network
