"""Freezing: the immutable form of a flow that scores and samples without ever computing a determinant."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from models.bijections.actnorm import ActNorm
from models.bijections.base import Bijection, ChannelAffine
from models.bijections.conv1x1 import SelfNormalizingConv1x1
from models.bijections.coupling import AffineCoupling
from models.bijections.squeeze import Squeeze
from models.flow import Flow, Level
from models.problems import UninitializedModel


@dataclass(frozen=True)
class FrozenCoupling:
    """A coupling's network with its output gain folded in: three convolutions, float32; ``kept`` input channels."""

    kept: int
    first: tuple[Tensor, Tensor]
    middle: tuple[Tensor, Tensor]
    last: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class FrozenAffine:
    """Adjacent channel-affine maps folded into one, float64: z = A x + b, its exact inverse, its learned inverse.

    Each pair is (matrix ``(C, C)``, offset ``(C,)``). ``learned`` is None where no layer learned one.
    """

    forward: tuple[Tensor, Tensor]
    inverse: tuple[Tensor, Tensor]
    learned: tuple[Tensor, Tensor] | None


FrozenStep = FrozenAffine | FrozenCoupling


@dataclass(frozen=True)
class FrozenLevel:
    """One scale: the steps after its squeeze, the prior of the half that leaves, and the data-independent log-det."""

    steps: tuple[FrozenStep, ...]
    prior: FrozenCoupling | None
    constant_log_det: float


@dataclass(frozen=True)
class FrozenFlow:
    """A flow ready to score images of one shape ``(C, H, W)``. Holds copies: later training does not touch it."""

    image_shape: tuple[int, int, int]
    pixels: Bijection
    levels: tuple[FrozenLevel, ...]

    @property
    def has_learned_inverse(self) -> bool:
        """Whether samples can be drawn through the learned inverses."""
        return any(isinstance(s, FrozenAffine) and s.learned is not None for level in self.levels for s in level.steps)

    def latent_shapes(self) -> list[tuple[int, int, int]]:
        """Return (C, H, W) of the latents, finest scale first."""
        channels, height, width = self.image_shape
        shapes = []
        for level in self.levels:
            channels, height, width = 4 * channels, height // 2, width // 2
            kept = level.prior.kept if level.prior is not None else 0
            shapes.append((channels - kept, height, width))
            channels = kept
        return shapes


def constant_log_dets(flow: Flow, image_shape: tuple[int, int, int]) -> dict[str, float]:
    """Return the data-independent log-det of every channel-affine layer by its name, in nats, computed in float64.

    H·W·log|det A| each. Cost: O(C³) a layer. This is the only place that computes determinants for scoring.
    """
    _, height, width = image_shape
    log_dets = {}
    names = {id(module): name for name, module in flow.named_modules()}
    for index, level in enumerate(flow.level_list(), start=1):
        locations = (height >> index) * (width >> index)
        for bijection in level.bijections():
            if isinstance(bijection, ChannelAffine):
                with torch.no_grad():
                    log_dets[names[id(bijection)]] = locations * float(bijection.log_abs_det().double())
    return log_dets


@torch.no_grad()
def freeze(flow: Flow, image_shape: tuple[int, int, int], log_dets: dict[str, float] | None = None) -> FrozenFlow:
    """Freeze ``flow`` for images ``(C, H, W)``, with the stored log-dets of these weights where they are given.

    Raises ``KeyError`` when ``log_dets`` lacks a layer, ``UninitializedModel``.
    """
    known = constant_log_dets(flow, image_shape) if log_dets is None else log_dets
    names = {id(module): name for name, module in flow.named_modules()}
    levels = []
    for level in flow.level_list():
        constant = sum(known[names[id(b)]] for b in level.bijections() if isinstance(b, ChannelAffine))
        prior = None if level.prior is None else _freeze_coupling(level.prior)
        levels.append(FrozenLevel(tuple(_freeze_steps(level)), prior, constant))
    return FrozenFlow(image_shape, copy.deepcopy(flow.pixels), tuple(levels))


def _freeze_steps(level: Level) -> list[FrozenStep]:
    steps: list[FrozenStep] = []
    for bijection in level.bijections():
        if isinstance(bijection, Squeeze):
            continue
        if isinstance(bijection, AffineCoupling):
            steps.append(_freeze_coupling(bijection))
        elif isinstance(bijection, ChannelAffine):
            step = _freeze_affine(bijection)
            if steps and isinstance(steps[-1], FrozenAffine):
                step = _compose(steps.pop(), step)
            steps.append(step)
        else:
            raise TypeError(f"{type(bijection).__name__} cannot be frozen")
    return steps


def _freeze_coupling(coupling: AffineCoupling) -> FrozenCoupling:
    net = coupling.net
    gain = torch.exp(3 * net.log_gain.double())
    last_weight = net.last.weight.double() * gain.view(-1, 1, 1, 1)
    assert net.first.bias is not None
    assert net.middle.bias is not None
    assert net.last.bias is not None
    return FrozenCoupling(
        coupling.kept,
        (_network_weight(net.first.weight), net.first.bias.float().clone()),
        (_network_weight(net.middle.weight), net.middle.bias.float().clone()),
        (_network_weight(last_weight), (net.last.bias.double() * gain).float()),
    )


def _network_weight(weight: Tensor) -> Tensor:
    return weight.float().clone().contiguous(memory_format=torch.channels_last)


def _freeze_affine(bijection: ChannelAffine) -> FrozenAffine:
    if isinstance(bijection, ActNorm) and not bijection.initialized:
        raise UninitializedModel("ActNorm has seen no batch yet: a flow is frozen after initialize or loading")
    matrix, offset = (part.double().clone() for part in bijection.affine())
    inverse = torch.linalg.inv(matrix)
    learned = None
    if isinstance(bijection, SelfNormalizingConv1x1):
        matrix_r = bijection.inverse_weight.double().clone()
        learned = (matrix_r, -matrix_r @ offset)
    return FrozenAffine((matrix, offset), (inverse, -inverse @ offset), learned)


def _compose(first: FrozenStep, second: FrozenAffine) -> FrozenAffine:
    assert isinstance(first, FrozenAffine)
    learned = None
    if first.learned is not None or second.learned is not None:
        learned = _after(second.learned or second.inverse, first.learned or first.inverse)
    return FrozenAffine(_after(first.forward, second.forward), _after(second.inverse, first.inverse), learned)


def _after(inner: tuple[Tensor, Tensor], outer: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the affine map outer(inner(x))."""
    return outer[0] @ inner[0], outer[0] @ inner[1] + outer[1]
