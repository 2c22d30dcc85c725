"""Conversion of frozen flows to OpenVINO graphs in float32, for a fixed number of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snf_models.bijections.activations import FrozenSpline, Knots
from snf_models.bijections.channels import FrozenSqueeze
from snf_models.bijections.convolution import FrozenConvolution
from snf_models.bijections.convolution_matrix import same_padding
from snf_models.bijections.coupling import LOG_SCALE_BOUND, FrozenAdditiveCoupling, FrozenCoupling
from snf_models.bijections.frozen import AffineMap, FrozenAffine, FrozenStep, Inverse
from snf_models.scoring.frozen import FrozenFlow
from snf_runtime.scoring.layout import GraphPart
from snf_runtime.scoring.openvino_engine import Graph, op, ov

Node: TypeAlias = "ov.Output"

VECTOR = 16  # output channels that a convolution kernel of OpenVINO computes at once; fewer take the same time


@dataclass
class _Outputs:
    nodes: list[Node] = field(default_factory=list)
    parts: list[tuple[GraphPart, int]] = field(default_factory=list)

    def add(self, part: GraphPart, level: int, node: Node) -> None:
        self.nodes.append(node)
        self.parts.append((part, level))

    def graph(self, inputs: list[ov.Node]) -> Graph:
        return Graph(ov.Model([op.result(node) for node in self.nodes], inputs, "flow"), self.parts)


def supports_forward(frozen: FrozenFlow) -> bool:
    known = (FrozenCoupling, FrozenAdditiveCoupling, FrozenSqueeze, FrozenConvolution, FrozenSpline)
    return _all_steps(frozen, lambda step: isinstance(step, known) or _is_1x1(step))


def supports_inverse(frozen: FrozenFlow) -> bool:
    return _all_steps(frozen, lambda step: isinstance(step, FrozenCoupling | FrozenSqueeze) or _is_1x1(step))


def _is_1x1(step: FrozenStep) -> bool:
    return isinstance(step, FrozenAffine) and not step.flat


def _all_steps(frozen: FrozenFlow, known: Callable[[FrozenStep], bool]) -> bool:
    return all(known(step) for level in frozen.levels for step in level.steps)


def forward_graph(frozen: FrozenFlow, images: int) -> Graph:
    """Return the graph to each level's log slopes, which the caller sums in float64, latents and errors."""
    start = op.parameter([images, *frozen.image_shape], np.float32, name="image")
    x, outputs = start.output(0), _Outputs()
    for index, level in enumerate(frozen.levels):
        slopes: list[Node] = []
        errors: list[Node] = []
        for step in level.steps:
            if isinstance(step, FrozenAffine) and step.has_reconstruction_error:
                errors.append(_reconstruction_error(step, x))
            x, slope = forward_node(step, x)
            slopes += [] if slope is None else [slope]
        if slopes:
            outputs.add("log-slopes", index, joined(slopes))
        if errors:
            outputs.add("reconstruction-errors", index, joined(errors))
        if level.prior is not None:
            assert isinstance(level.prior, FrozenCoupling)
            x, latent, slope = _couple(level.prior, x)
            outputs.add("prior-log-slopes", index, slope)
            outputs.add("latent", index, latent)
        elif level.latent_shape is not None:
            outputs.add("latent", index, x)
    return outputs.graph([start])


def inverse_graph(frozen: FrozenFlow, images: int, inverse: Inverse) -> Graph:
    """Return the graph from latents, finest scale first, to images after the pixel transform."""
    starts = [op.parameter([images, *shape], np.float32) for shape in frozen.latent_shapes()]
    *remaining, x = [start.output(0) for start in starts]
    for level in reversed(frozen.levels):
        if level.prior is not None:
            assert isinstance(level.prior, FrozenCoupling)
            x = _decouple(level.prior, x, remaining.pop())
        for step in reversed(level.steps):
            if isinstance(step, FrozenAffine):
                learned = step.learned_map if inverse == "learned" else None
                x = _affine(learned or step.inverse_map, x)
            elif isinstance(step, FrozenCoupling):
                kept, moved = _split(x, step.kept)
                x = _decouple(step, kept, moved)
            else:
                x = op.depth_to_space(x, "depth_first", 2).output(0)
    outputs = _Outputs()
    outputs.add("image", 0, x)
    return outputs.graph(starts)


def forward_node(step: FrozenStep, x: Node) -> tuple[Node, Node | None]:
    """Return nodes of a layer's output and its log slopes, None if they are the same for all images."""
    if isinstance(step, FrozenAffine):
        return _affine(step.forward_map, x), None
    if isinstance(step, FrozenCoupling):
        kept, moved, log_scale = _couple(step, x)
        return joined([kept, moved]), log_scale
    if isinstance(step, FrozenAdditiveCoupling):
        kept, moved = _split(x, step.kept)
        return joined([kept, op.add(moved, _shift(step, kept)).output(0)]), None
    if isinstance(step, FrozenConvolution):
        return _convolve(x, step.weight, step.offset.flatten()), None
    if isinstance(step, FrozenSpline):
        return _spline(step.knots, x)
    return op.space_to_depth(x, "depth_first", 2).output(0), None


def _affine(affine: AffineMap, x: Node) -> Node:
    matrix, offset = affine
    return _convolve(x, matrix[:, :, None, None], offset)


def _reconstruction_error(step: FrozenAffine, x: Node) -> Node:
    """Return a node for ||R W x - x||² / ||x||², ``(images, 1)``, scaled to avoid underflow in float32."""
    assert step.reconstruction_map is not None
    matrix, offset = step.reconstruction_map
    size = step.reconstruction_size
    error = _affine((matrix / size, offset / size), x)
    return op.divide(_square_sum(error), _square_sum(x)).output(0)


def _square_sum(x: Node) -> Node:
    return op.reshape(
        op.reduce_sum(op.multiply(x, x), op.constant([1, 2, 3]), keep_dims=False), op.constant([-1, 1]), False
    ).output(0)


def _couple(coupling: FrozenCoupling, x: Node) -> tuple[Node, Node, Node]:
    """Return nodes for the unchanged channels of a coupling, the transformed ones, and their log-scales."""
    kept, moved = _split(x, coupling.kept)
    log_scale, shift = _scale_and_shift(coupling, kept)
    return kept, op.add(op.multiply(moved, op.exp(log_scale)), shift).output(0), log_scale


def _decouple(coupling: FrozenCoupling, kept: Node, moved: Node) -> Node:
    log_scale, shift = _scale_and_shift(coupling, kept)
    return joined([kept, op.multiply(op.subtract(moved, shift), op.exp(op.negative(log_scale))).output(0)])


def _scale_and_shift(coupling: FrozenCoupling, kept: Node) -> tuple[Node, Node]:
    hidden = _hidden(coupling, kept)
    logits, shift = op.split(_convolve_to_few(hidden, *coupling.last), op.constant(1), 2).outputs()
    bound = constant(np.float32(LOG_SCALE_BOUND))
    return op.multiply(op.tanh(op.divide(logits, bound)), bound).output(0), shift


def _shift(coupling: FrozenAdditiveCoupling, kept: Node) -> Node:
    return _convolve(_hidden(coupling, kept), *coupling.last)


def _hidden(coupling: FrozenCoupling | FrozenAdditiveCoupling, kept: Node) -> Node:
    """Return a node for what the last convolution of the network of a coupling gets."""
    hidden = _convolve(kept, *coupling.first)
    if coupling.place is not None:
        hidden = op.add(hidden, constant(_numpy(coupling.place[None]))).output(0)
    return op.relu(_convolve(op.relu(hidden).output(0), *coupling.middle)).output(0)


def _convolve(x: Node, weight: Tensor, bias: Tensor) -> Node:
    """Return a node for a convolution with size-preserving padding, in the type of ``weight`` and ``bias``."""
    pads = list(same_padding(weight))
    kind = ov.Type.bf16 if weight.dtype == torch.bfloat16 else ov.Type.f32
    kernel, offset = constant(_numpy(weight)), constant(_numpy(bias).reshape(1, -1, 1, 1))
    if x.get_element_type() != kind:
        x = op.convert(x, kind).output(0)
    if kind == ov.Type.bf16:
        kernel, offset = op.convert(kernel, kind).output(0), op.convert(offset, kind).output(0)
    return op.add(op.convolution(x, kernel, [1, 1], pads, pads, [1, 1]), offset).output(0)


def _convolve_to_few(x: Node, weight: Tensor, bias: Tensor) -> Node:
    """Convolve by one product for all taps, Σ_t shift_t(w_t x), which fills vector registers with few outputs."""
    outputs, inputs, height, width = weight.shape
    taps = height * width
    if _filled(outputs * taps) >= _filled(outputs) * taps:
        return _convolve(x, weight, bias)
    products = weight.permute(2, 3, 0, 1).reshape(taps * outputs, inputs, 1, 1)
    shifts = torch.eye(taps).view(taps, 1, taps).repeat(1, outputs, 1)
    shifts = (shifts[:, :, None] * torch.eye(outputs)[None, :, :, None]).reshape(taps * outputs, outputs, height, width)
    gathered = _convolve(x, products, torch.zeros(taps * outputs))
    return _convolve(gathered, shifts.transpose(0, 1), bias)


def _filled(channels: int) -> int:
    return -(-channels // VECTOR) * VECTOR


def _spline(knots: Knots, x: Node) -> tuple[Node, Node]:
    """Return nodes for the values and log-derivatives of rational-quadratic splines."""
    shape = [1, *list(x.get_shape())[1:]]
    inner = [_elements(edge, shape) for edge in knots.x[:, 1:-1].unbind(1)]
    bound = constant(np.float32(knots.bound))
    clamped = op.clamp(x, -knots.bound, knots.bound).output(0)
    after = [op.greater_equal(clamped, edge).output(0) for edge in inner]

    def pick(values: Tensor) -> Node:
        first, *others = [_elements(value, shape) for value in values.unbind(1)]
        for passed, value in zip(after, others, strict=True):
            first = op.select(passed, value, first).output(0)
        return first

    widths, heights = knots.x.diff(), knots.y.diff()
    means, left, right = heights / widths, knots.slope[:, :-1], knots.slope[:, 1:]
    mean, start, end = pick(means), pick(left), pick(right)
    theta = op.multiply(op.subtract(clamped, pick(knots.x[:, :-1])), pick(1 / widths)).output(0)
    rest = op.subtract(constant(np.float32(1)), theta).output(0)
    mixed, square = op.multiply(theta, rest).output(0), op.multiply(theta, theta).output(0)
    denominator = op.add(mean, op.multiply(pick(left + right - 2 * means), mixed)).output(0)
    rise = op.divide(op.add(op.multiply(mean, square), op.multiply(start, mixed)), denominator)
    z = op.add(pick(knots.y[:, :-1]), op.multiply(pick(heights), rise)).output(0)
    numerator = op.add(
        op.add(op.multiply(end, square), op.multiply(start, op.multiply(rest, rest))),
        op.multiply(mean, op.multiply(constant(np.float32(2)), mixed)),
    )
    ratio = op.divide(mean, denominator)
    log_slope = op.log(op.multiply(op.multiply(ratio, ratio), numerator)).output(0)
    inside = op.less(op.abs(x), bound).output(0)
    return op.select(inside, z, x).output(0), op.select(inside, log_slope, constant(np.float32(0))).output(0)


def _elements(values: Tensor, shape: list[int]) -> Node:
    return constant(_numpy(values).reshape(shape))


def _split(x: Node, kept: int) -> tuple[Node, Node]:
    lengths = op.constant([kept, int(x.get_shape()[1]) - kept])
    first, second = op.variadic_split(x, op.constant(1), lengths).outputs()
    return first, second


def joined(parts: list[Node], axis: int = 1) -> Node:
    return parts[0] if len(parts) == 1 else op.concat(parts, axis).output(0)


def constant(values: NDArray[np.float32] | np.float32) -> Node:
    return op.constant(np.ascontiguousarray(values)).output(0)


def _numpy(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.detach().cpu().float().numpy()
    return array
