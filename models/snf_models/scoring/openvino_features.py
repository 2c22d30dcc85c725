"""OpenVINO graphs from 8-bit images to features of a backbone, or to the squared latents of flows over them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snf_models.bijections.base import Shape
from snf_models.bijections.frozen import FrozenStep
from snf_models.bijections.local_affine import FrozenLocalAffine, places_of_cells
from snf_models.errors import BackboneUnfit
from snf_models.features.backbones import BLOCKS, Arrays, Backbone, BackboneOutput, BackboneStore, same_padding
from snf_models.features.extractor import SMOOTHING
from snf_models.features.flows import FrozenFeatureFlows
from snf_models.scoring.openvino_graph import Node, constant, forward_node, joined
from snf_runtime.parallelism import MICRO_BATCH
from snf_runtime.scoring.openvino_engine import FEATURE_OUTPUTS, FrontEndManager, Graph, op, ov

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


ROWS = MICRO_BATCH
"""Least rows of a product. OpenVINO has another kernel for a single row, whose sums differ in the last bits."""


class FeatureGraphs:
    """Builder of graphs from 8-bit images to features, or to ||z||² of flows over them, at places and pooled."""

    # The backbone runs on one image after the other, as activations of several do not fit in CPU caches. Flows run on
    # all images at once, which reads their matrices once.

    def __init__(
        self,
        network: Network,
        backbone: Backbone,
        image_shape: Shape,
        size: tuple[int, int],
        flows: FrozenFeatureFlows | None = None,
    ) -> None:
        self._network = network
        self._backbone = backbone
        self._image_shape = image_shape
        self._size = size
        self._squares: list[_Squares] = []
        if flows is not None:
            self._squares = [
                _Squares(flows.places, flows.feature_shape[1:], flows.steps),
                _Squares(flows.pooled, (1, 1), groups=flows.groups),
            ]

    def __call__(self, images: int) -> Graph:
        """Return the graph for a number of images; raise ``BackboneUnfit`` if the network is not as described."""
        start = op.parameter([images, *self._image_shape], np.uint8, name="image")
        features = [self._features(image) for image in _parts(start.output(0), images)]
        places, pooled = [parts[0] for parts in features], [parts[1] for parts in features]
        if self._squares:
            results = [squares(parts) for squares, parts in zip(self._squares, (places, pooled), strict=True)]
        else:
            results = [joined(places, 0), _reshaped(joined(pooled, 0), images, -1)]
        model = ov.Model([op.result(node) for node in results], [start], "features")
        return Graph(model, FEATURE_OUTPUTS)

    def _features(self, image: Node) -> tuple[Node, Node]:
        """Return nodes for the features of an image: ``(1, C, rows, columns)``, and pooled ones, ``(1, K, 1, 1)``."""
        maps, deepest = outputs_of(self._network, self._backbone, _normalised(image, self._backbone, self._size))
        places = _on_one_grid(maps, self._backbone)
        means = [op.reduce_mean(x, op.constant([2, 3]), keep_dims=True).output(0) for x in (places, deepest)]
        return places, joined(means)


class _Squares:
    """Part of a graph from features to ||z||² of each fit at each place; with groups of channels, of each group."""

    def __init__(
        self,
        layers: Sequence[FrozenLocalAffine],
        sides: tuple[int, int],
        steps: Sequence[FrozenStep] = (),
        groups: Sequence[int] | None = None,
    ) -> None:
        self._sides = sides
        self._channels = groups
        self._steps = steps
        grids = sorted({layer.grid for layer in layers})
        self._groups = [_LayersOfGrid([layer for layer in layers if layer.grid == grid], sides) for grid in grids]
        order = sorted(range(len(layers)), key=lambda number: layers[number].grid)
        self._position = np.argsort(order)

    def __call__(self, features: list[Node]) -> Node:
        """Return the node ``(N, fits, rows, columns)`` or, with groups, ``(N, fits, groups)`` at a single place."""
        images, channels = len(features), int(features[0].get_shape()[1])
        by_place = [_reshaped(op.transpose(x, op.constant([2, 3, 0, 1])), -1, 1, channels) for x in features]
        x = joined(by_place + by_place[-1:] * (ROWS - images))
        if self._steps:
            (group,) = self._groups
            z = op.transpose(group.in_order(group.latents(x)), op.constant([1, 2, 3, 0])).output(0)
            z = _reshaped(_first(z, images), images, channels, *self._sides)
            for step in self._steps:
                z, _ = forward_node(step, z)
            return _square_sum(z, 1)
        squares = joined([group.in_order(self._sums(group.latents(x))) for group in self._groups], 2)
        if len(self._groups) > 1:
            squares = op.gather(squares, op.constant(self._position), op.constant(2)).output(0)
        squares = op.transpose(squares, op.constant([1, 2, 3, 0])).output(0)
        sides = self._sides if self._channels is None else (len(self._channels),)
        return _reshaped(_first(squares, images), images, -1, *sides)

    def _sums(self, z: Node) -> Node:
        """Return a node for the sums of squares of latents ``(places, N, fits, C)``, ``(places, N, fits, groups)``."""
        if self._channels is None:
            return _square_sum(z, 3)
        parts = op.variadic_split(z, op.constant(3), op.constant(list(self._channels))).outputs()
        return joined([_square_sum(part, 3) for part in parts], 3)


class _LayersOfGrid:
    """Local affine layers of one grid, by one product ``(cells, places * N, C) x (cells, C, layers * C)``."""

    def __init__(self, layers: Sequence[FrozenLocalAffine], sides: tuple[int, int]) -> None:
        self._layers = len(layers)
        self._table, self._position = places_of_cells(*sides, layers[0].grid)
        self._sorted = torch.equal(self._table.flatten(), torch.arange(len(self._position)))
        means = torch.stack([layer.mean.flatten(1).T for layer in layers])
        # The mean of the first layer is subtracted before the product, because a difference of products loses digits.
        self._mean = constant(_narrow(means[0, :, None]))
        self._matrices = constant(_narrow(torch.cat([layer.matrices.mT for layer in layers], 2)))
        differences = (means - means[0])[:, self._table]
        shifts = torch.stack([differences[number] @ layer.matrices.mT for number, layer in enumerate(layers)], 2)
        self._shifts = constant(_narrow(shifts.flatten(0, 1)[:, None]))

    def latents(self, x: Node) -> Node:
        """Return a node for W_c (x - m_p), ``(places, N, layers, C)`` by cell, of features ``(places, N, C)``."""
        _, images, channels = (int(side) for side in x.get_shape())
        x = op.subtract(x, self._mean).output(0)
        if not self._sorted:
            x = op.gather(x, op.constant(self._table.flatten().numpy()), op.constant(0)).output(0)
        z = op.matmul(_reshaped(x, len(self._table), -1, channels), self._matrices, False, False).output(0)
        z = _reshaped(z, -1, images, self._layers, channels)
        return op.subtract(z, self._shifts).output(0) if self._layers > 1 else z

    def in_order(self, values: Node) -> Node:
        """Return a node for values ordered by cell, ``(places, ...)``, in the order of the places."""
        if self._sorted:
            return values
        return op.gather(values, op.constant(self._position.numpy()), op.constant(0)).output(0)


def _normalised(x: Node, backbone: Backbone, size: tuple[int, int]) -> Node:
    """Return a node for images as a backbone takes them, as :func:`snf_models.features.extractor.normalised` does."""
    x = op.convert(x, ov.Type.f32).output(0)
    if tuple(x.get_shape())[2:] != size:
        x = op.interpolate(x, op.constant(np.array(size)), "linear_onnx", "sizes", axes=op.constant([2, 3])).output(0)
    mean, deviation = (np.array(part).reshape(1, 3, 1, 1) for part in (backbone.mean, backbone.deviation))
    # Constants of three channels make three channels of a grey image.
    centred = op.subtract(x, constant(mean.astype(np.float32)))
    return op.multiply(centred, constant((1 / deviation).astype(np.float32))).output(0)


def _on_one_grid(maps: list[Node], backbone: Backbone) -> Node:
    """Return a node for all maps on the coarsest grid, as :func:`snf_models.features.extractor.on_one_grid` does."""
    brought = []
    for output, values in zip(backbone.maps, maps, strict=True):
        pad, ratio = SMOOTHING // 2, backbone.stride // output.stride
        node = op.avg_pool(values, [1, 1], [pad, pad], [pad, pad], [SMOOTHING, SMOOTHING], True).output(0)
        if ratio > 1:
            node = op.avg_pool(node, [ratio, ratio], [0, 0], [0, 0], [ratio, ratio], True).output(0)
        brought.append(node)
    return joined(brought)


def _parts(x: Node, images: int) -> list[Node]:
    return [x] if images == 1 else list(op.split(x, op.constant(0), images).outputs())


def _first(x: Node, images: int) -> Node:
    if int(x.get_shape()[0]) == images:
        return x
    return op.gather(x, op.constant(np.arange(images)), op.constant(0)).output(0)


def _square_sum(x: Node, axis: int) -> Node:
    return op.reduce_sum(op.multiply(x, x), op.constant([axis]), keep_dims=True).output(0)


def _reshaped(x: Node, *sides: int) -> Node:
    return op.reshape(x, op.constant(list(sides)), False).output(0)


def _narrow(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().contiguous().numpy()
    return array
