"""Freezing: the immutable form of a flow that scores and samples without ever computing a determinant."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from models.artifacts.manifest import Precision
from models.bijections.base import Bijection, Elementwise, Shape
from models.bijections.coupling import FrozenCoupling
from models.bijections.frozen import FrozenAffine, FrozenStep, has_learned_inverse
from models.flows.flow import Flow, walk


@dataclass(frozen=True)
class FrozenLevel:
    """One scale: its steps, the prior of the half that leaves, and the data-independent log-det in nats.

    ``kept`` is the number of channels that go on to the next level, 0 at the last.
    """

    steps: tuple[FrozenStep, ...]
    prior: FrozenStep | None
    kept: int
    latent_shape: Shape | None
    constant_log_det: float

    @property
    def has_reconstruction(self) -> bool:
        """Whether steps of this level tell how well a learned inverse reconstructs their input."""
        return any(isinstance(step, FrozenAffine) and step.tells_reconstruction for step in self.steps)


@dataclass(frozen=True)
class FrozenFlow:
    """A flow ready to score images of one shape. Holds copies: later training does not touch it."""

    image_shape: Shape
    pixels: Elementwise
    levels: tuple[FrozenLevel, ...]
    precision: Precision = "float32"

    def with_precision(self, precision: Precision) -> FrozenFlow:
        """Return the flow with the middle convolutions of its coupling networks in this precision.

        Raises ``ValueError`` where it is bfloat16 already and float32 is asked: what was rounded does not come back.
        """
        if precision == self.precision:
            return self
        if precision == "float32":
            raise ValueError("this flow was rounded to bfloat16: freeze it again")
        levels = tuple(
            replace(
                level, steps=tuple(_rounded(step) for step in level.steps), prior=level.prior and _rounded(level.prior)
            )
            for level in self.levels
        )
        return replace(self, levels=levels, precision=precision)

    @property
    def has_learned_inverse(self) -> bool:
        """Whether samples can be drawn through the learned inverses."""
        return any(has_learned_inverse(step) for level in self.levels for step in level.steps)

    @property
    def is_spatial(self) -> bool:
        """Whether what it computes belongs to places in the image, as it does not with fully connected layers."""
        return not any(isinstance(step, FrozenAffine) and step.flat for level in self.levels for step in level.steps)

    def latent_shapes(self) -> list[Shape]:
        """Return (C, H, W) of the latents, finest scale first."""
        return [level.latent_shape for level in self.levels if level.latent_shape is not None]


@torch.no_grad()
def constant_log_dets(flow: Flow, image_shape: Shape) -> dict[str, float]:
    """Return the data-independent log-det of every layer that has one by its name, in nats, computed in float64.

    This is the only place that computes determinants for scoring; what it costs stands with each bijection.
    """
    return {
        name: bijection.constant_log_det_at(shape)
        for _, steps, _ in walk(flow, image_shape)
        for name, bijection, shape in steps
        if _is_stored(bijection)
    }


@torch.no_grad()
def freeze(flow: Flow, image_shape: Shape, log_dets: dict[str, float] | None = None) -> FrozenFlow:
    """Freeze ``flow`` for images ``(C, H, W)``, with the stored log-dets of these weights where they are given.

    Raises ``KeyError`` when ``log_dets`` lacks a layer, ``UninitializedModel``.
    """
    known = constant_log_dets(flow, image_shape) if log_dets is None else log_dets
    levels = []
    for level, steps, shape in walk(flow, image_shape):
        constant = sum(known[name] for name, bijection, _ in steps if _is_stored(bijection))
        frozen = _fold([bijection.freeze(at) for _, bijection, at in steps])
        if level.prior is not None:
            prior, kept = level.prior.freeze(shape), level.prior.kept
        else:
            prior, kept = None, 0 if level is flow.level_list()[-1] else shape[0]
        latent_shape = (shape[0] - kept, *shape[1:]) if kept < shape[0] else None
        levels.append(FrozenLevel(frozen, prior, kept, latent_shape, constant))
    return FrozenFlow(image_shape, flow.pixels.settled(), tuple(levels))


def layers_with_log_det(flow: Flow, image_shape: Shape) -> set[str]:
    """Return the names of the layers whose log-dets are stored with a model."""
    return {name for _, steps, _ in walk(flow, image_shape) for name, layer, _ in steps if _is_stored(layer)}


def _rounded(step: FrozenStep) -> FrozenStep:
    return step.in_bfloat16() if isinstance(step, FrozenCoupling) else step


def _is_stored(bijection: Bijection) -> bool:
    # A data-independent map without parameters only moves values about.
    return bijection.constant_log_det and next(bijection.parameters(), None) is not None


def _fold(steps: list[FrozenStep]) -> tuple[FrozenStep, ...]:
    folded: list[FrozenStep] = []
    for step in steps:
        last = folded[-1] if folded else None
        if isinstance(last, FrozenAffine) and isinstance(step, FrozenAffine) and last.flat == step.flat:
            folded[-1] = last.then(step)
        else:
            folded.append(step)
    return tuple(folded)
