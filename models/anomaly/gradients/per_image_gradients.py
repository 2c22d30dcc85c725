"""Per-image gradients of the log-likelihood with respect to weights and pixels, from one backward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.bijections.actnorm import ActNorm
from models.bijections.base import ChannelAffine
from models.bijections.coupling import AffineCoupling
from models.flows.flow import Flow

TILE = 8
"""Most images of a tile, whose backward pass takes about as long as a batch of plain scores."""
TILE_PIXELS = TILE * 32 * 32
"""Most pixels of a tile: a backward pass keeps all activations."""
GROUPS = 8
"""Most groups of neighbouring layers of one kind and level."""
FLOOR = 1e-8
"""Added to the Fisher information and to squared norms (Bergamin et al. 2022)."""


def tile_of(pixels: int) -> int:
    """Return how many images with ``pixels`` pixels each can share one backward pass.

    Images that share a backward pass are called a tile.

    The number is 8 for up to 1024 pixels an image and smaller for more pixels, but at least 1.

    >>> tile_of(28 * 28), tile_of(128 * 128)
    (8, 1)
    """
    return max(1, min(TILE, TILE_PIXELS // pixels))


@dataclass(frozen=True)
class Gradients:
    """Gradients of each image's log-likelihood with respect to weights of the flow and to pixels.

    There are N images. The gradients of the weights are squared and grouped by layers, those of the pixels are plain.

    Attributes:
        layers: Squared gradients of the weights of each group of layers, ``(N, P_group)``, float32.
        image: The gradient with respect to the transformed pixels, ``(N, C, H, W)``.
    """

    layers: list[Tensor]
    image: Tensor


class GradientProbe:
    """Callable that returns the gradients of the log-likelihood of each image.

    The gradients are those with respect to selected weights and to the pixels.

    The weights are those of the channel maps, and of the last convolutions of the couplings.

    One backward pass gives the gradient δ of the output of every layer. The gradient of a weight is then Σ_ij δ x', for
    each image. The wide convolutions are left out: the gradients of their weights would cost as much as the pass.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = copy.deepcopy(flow).float().eval().requires_grad_(False)
        self._groups = list(_groups(self.flow))

    @property
    def names(self) -> list[str]:
        """The names of the groups of flow layers whose weight gradients are computed.

        For example, ``coupling-1.2`` is the second group of coupling layers at scale 1.
        """
        return [name for name, _ in self._groups]

    @property
    def sizes(self) -> list[int]:
        """The number of weights in each group of flow layers, in the order of ``names``.

        A group has layers of one kind, such as coupling layers.

        Only weights whose gradients are computed are counted.
        """
        return _sizes(self._groups)

    def __call__(self, x: Tensor) -> Gradients:
        """Return gradients of log p of each image plus noise in [0, 1), float64 ``(N, C, H, W)`` in [0, 256)."""
        # The tile depends on the image size only: the size of a batch must not select other kernels.
        tile_size = tile_of(x.shape[2] * x.shape[3])
        missing = -len(x) % tile_size
        filled = torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x
        tiles = [self._tile(tile) for tile in torch.split(filled, tile_size)]
        layers = [torch.cat(parts)[: len(x)] for parts in zip(*(tile.layers for tile in tiles), strict=True)]
        return Gradients(layers, torch.cat([tile.image for tile in tiles])[: len(x)])

    def _tile(self, x: Tensor) -> Gradients:
        y, log_det = self.flow.pixels(x)
        y = y.float().requires_grad_(True)
        with torch.enable_grad(), _watched([layer for _, group in self._groups for layer in group]) as seen:
            value = self.flow.forward_pixels(y, log_det.float()).log_likelihood.sum()
            outputs = [seen[layer][1] for _, group in self._groups for layer in group]
            image, *deltas = torch.autograd.grad(value, [y, *outputs])
        remaining = iter(deltas)
        layers = [
            torch.cat([_squared(layer, seen[layer][0], next(remaining)) for layer in group], 1)
            for _, group in self._groups
        ]
        return Gradients(layers, image.detach())


def gradient_weights(flow: Flow) -> int:
    """Return how many of a flow's weights are used when an image is judged by log-likelihood gradients.

    These are the weights whose gradients :class:`GradientProbe` computes.
    """
    return sum(_sizes(list(_groups(flow))))


def layer_features(gradients: Gradients, fisher: list[Tensor]) -> NDArray[np.float64]:
    """Return each image's gradient features: sizes of the log-likelihood gradients for pixels and layer groups.

    Anomalies are recognised by these features.

    They are logarithms of squared gradient norms, plain and relative to the Fisher information,
    ``(N, 1 + 2 * groups)``.

    The columns are log ||∇_y log p||²; for each group t = log ||∇_θ log p||² (Dauncey et al. 2024); and for each group
    the logarithm of the mean of g² / (F + 1e-8), with the diagonal Fisher information F (Bergamin et al. 2022).

    Args:
        gradients: The gradients of N images.
        fisher: The diagonal Fisher information of each group, ``(P_group,)``.
    """
    columns = [gradients.image.double().square().sum((1, 2, 3))]
    columns += [squares.double().sum(1) for squares in gradients.layers]
    columns += [
        (squares / (information + FLOOR)).double().mean(1)
        for squares, information in zip(gradients.layers, fisher, strict=True)
    ]
    return torch.log(torch.stack(columns, 1) + FLOOR).numpy()


def fisher_information(batches: Iterator[Gradients]) -> list[Tensor]:
    """Return the diagonal Fisher information: the mean squared log-likelihood gradient of each flow weight.

    The weights are those of the given gradients, and the mean is over the images of all batches. There is one tensor
    for each group of layers. Without batches the result is empty.

    This is the diagonal Fisher information of the weights, ``(P_group,)`` float32 for each group.
    """
    total: list[Tensor] | None = None
    count = 0
    for gradients in batches:
        sums = [squares.double().sum(0) for squares in gradients.layers]
        total = sums if total is None else [known + new for known, new in zip(total, sums, strict=True)]
        count += len(gradients.image)
    return [(known / count).float() for known in total or []]


def gradient_map(gradients: Gradients) -> NDArray[np.float64]:
    """Return the size of the log-likelihood gradient at each pixel, as one map for each image.

    The size is the norm over the channels. The result is ``(N, H, W)``.
    """
    return gradients.image.double().square().sum(1).sqrt().numpy()


def _sizes(groups: list[tuple[str, list[nn.Module]]]) -> list[int]:
    return [sum(_weights(layer) for layer in group) for _, group in groups]


def _groups(flow: Flow) -> Iterator[tuple[str, list[nn.Module]]]:
    for number, level in enumerate(flow.level_list(), start=1):
        kinds: dict[str, list[nn.Module]] = {"scale": [], "mixing": [], "coupling": []}
        for step in level.bijections():
            if isinstance(step, ActNorm):
                kinds["scale"].append(step)
            elif isinstance(step, ChannelAffine):
                kinds["mixing"].append(step)
            elif isinstance(step, AffineCoupling):
                kinds["coupling"].append(step.net.last)
        for kind, layers in kinds.items():
            for index, part in enumerate(np.array_split(np.arange(len(layers)), min(GROUPS, len(layers)) or 1)):
                if len(part):
                    yield f"{kind}-{number}.{index + 1}", [layers[i] for i in part]
        if level.prior is not None:
            yield f"prior-{number}", [level.prior.net.last]


@contextmanager
def _watched(layers: list[nn.Module]) -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """Record input and output of every layer in ``layers``, as a context manager."""
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        seen[module] = (arguments[0].detach(), output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _weights(layer: nn.Module) -> int:
    if isinstance(layer, nn.Conv2d):
        return layer.weight.numel()
    assert isinstance(layer, ChannelAffine)
    matrix = layer.affine()[0]
    return len(matrix) if isinstance(layer, ActNorm) else matrix.numel()


def _squared(layer: nn.Module, x: Tensor, delta: Tensor) -> Tensor:
    """Return the squared gradients of the weights of a layer for each image, ``(N, P)``."""
    if isinstance(layer, nn.Conv2d):
        patches = F.unfold(x, layer.kernel_size, padding=tuple(map(int, layer.padding)))
        return torch.bmm(patches, delta.flatten(2).transpose(1, 2)).flatten(1).square()
    assert isinstance(layer, ChannelAffine)
    locations = x.shape[2] * x.shape[3]
    matrix = layer.affine()[0]
    # The log-det's own gradient: H W log|det A| has H W A^-T.
    own = locations * torch.linalg.inv(matrix).T
    gradient: Tensor
    if isinstance(layer, ActNorm):
        gradient = (x * delta).sum((2, 3)) + own.diagonal()
    else:
        gradient = (torch.bmm(delta.flatten(2), x.flatten(2).transpose(1, 2)) + own).flatten(1)
    return gradient.square()
