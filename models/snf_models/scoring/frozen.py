"""Immutable copies of trained flows, which score and sample without computing determinants."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from snf_models.bijections.base import Bijection, Elementwise, Shape
from snf_models.bijections.convolution_matrix import LinAlgError
from snf_models.bijections.coupling import FrozenCoupling
from snf_models.bijections.frozen import FrozenAffine, FrozenStep, has_learned_inverse
from snf_models.errors import SingularLayer
from snf_models.flows.flow import Flow, walk
from snf_runtime.kinds import Precision
from snf_runtime.scoring.layout import FlowLayout, LevelLayout

LARGEST_ROUND_TRIP_ERROR = 1e-6
PROBES = 4
"""Images of white noise."""


@dataclass(frozen=True)
class FrozenLevel(LevelLayout):
    """A level of a frozen flow, with its layers."""

    steps: tuple[FrozenStep, ...]
    prior: FrozenStep | None  # the coupling that whitens the latents


@dataclass(frozen=True)
class FrozenFlow(FlowLayout):
    """Immutable copy of a trained flow for images of one shape, with determinants computed in advance."""

    levels: tuple[FrozenLevel, ...]
    pixels: Elementwise

    def with_precision(self, precision: Precision) -> FrozenFlow:
        """Return this flow with rounded 1x1 convolutions; ``ValueError`` if its float32 weights are lost."""
        if precision == self.precision:
            return self
        if precision == "float32":
            raise ValueError(
                "expected a flow in float32, this one was rounded to bfloat16: freeze the trained flow again"
            )
        levels = tuple(
            replace(
                level, steps=tuple(_rounded(step) for step in level.steps), prior=level.prior and _rounded(level.prior)
            )
            for level in self.levels
        )
        return replace(self, levels=levels, precision=precision)

    @property
    def has_learned_inverse(self) -> bool:
        return any(has_learned_inverse(step) for level in self.levels for step in level.steps)

    def latent_shapes(self) -> list[Shape]:
        """Return (C, H, W) of the levels that have latents, finest scale first."""
        return [level.latent_shape for level in self.levels if level.latent_shape is not None]


@torch.no_grad()
def constant_log_dets(flow: Flow, image_shape: Shape) -> dict[str, float]:
    """Return the image-independent log |det dz/dx| in nats by layer; raise ``SingularLayer`` if not finite."""
    log_dets = {
        name: bijection.constant_log_det_at(shape)
        for _, steps, _ in walk(flow, image_shape)
        for name, bijection, shape in steps
        if _is_stored(bijection)
    }
    for name, value in log_dets.items():
        if not math.isfinite(value):
            raise SingularLayer(f"the layer {name} has no inverse: its log-determinant is {value}")
    return log_dets


@torch.no_grad()
def require_invertible(flow: Flow, image_shape: Shape) -> None:
    """Raise ``SingularLayer`` if a layer brings white noise back with an error above ``LARGEST_ROUND_TRIP_ERROR``."""
    generator = torch.Generator().manual_seed(0)
    for _, steps, _ in walk(flow, image_shape):
        for name, bijection, shape in steps:
            if not _is_stored(bijection):
                continue
            noise = torch.randn(PROBES, *shape, generator=generator, dtype=torch.float64)
            frozen = bijection.freeze(shape)
            try:
                error = float((frozen.inverse(frozen.forward(noise)[0], "exact") - noise).norm() / noise.norm())
            except LinAlgError:
                error = math.inf
            if not error <= LARGEST_ROUND_TRIP_ERROR:
                raise SingularLayer(
                    f"the layer {name} has no inverse in float64: expected white noise back with a relative error of "
                    f"at most {LARGEST_ROUND_TRIP_ERROR:g}, got {error:.2g}; train with a smaller learning_rate"
                )


@torch.no_grad()
def freeze(flow: Flow, image_shape: Shape, log_dets: dict[str, float] | None = None) -> FrozenFlow:
    """Return an immutable copy; ``log_dets`` None: compute them. ``UninitializedModel`` for an uninitialised layer."""
    known = constant_log_dets(flow, image_shape) if log_dets is None else log_dets
    levels = []
    for level, steps, shape in walk(flow, image_shape):
        moved = [name for name, layer, at in steps if layer is not level.squeeze and at[1:] != shape[1:]]
        if moved:
            # The log-dets of the pixels of a level are added up pixel by pixel.
            raise ValueError(f"expected a squeeze only at the start of a level, got one at or after {moved[-1]}")
        constant = sum(known[name] for name, bijection, _ in steps if _is_stored(bijection))
        frozen = _fold([bijection.freeze(at) for _, bijection, at in steps])
        if level.prior is not None:
            prior, kept = level.prior.freeze(shape), level.prior.kept
        else:
            prior, kept = None, 0 if level is flow.level_list()[-1] else shape[0]
        latent_shape = (shape[0] - kept, *shape[1:]) if kept < shape[0] else None
        levels.append(
            FrozenLevel(
                size=shape[1:],
                kept=kept,
                latent_shape=latent_shape,
                has_prior=prior is not None,
                constant_log_det=constant,
                reconstruction_sizes=_reconstruction_sizes(frozen),
                steps=frozen,
                prior=prior,
            )
        )
    pixels = flow.pixels.settled()
    return FrozenFlow(
        image_shape=image_shape,
        pixel_function=pixels.pixel_function(),
        levels=tuple(levels),
        is_spatial=not any(getattr(step, "flat", False) for level in levels for step in level.steps),
        precision="float32",
        pixels=pixels,
    )


def layers_with_log_det(flow: Flow, image_shape: Shape) -> set[str]:
    """Return the names of the layers whose image-independent log |det dz/dx| is stored with the model."""
    return {name for _, steps, _ in walk(flow, image_shape) for name, layer, _ in steps if _is_stored(layer)}


def _reconstruction_sizes(steps: tuple[FrozenStep, ...]) -> tuple[float, ...]:
    affine = [step for step in steps if isinstance(step, FrozenAffine) and step.has_reconstruction_error]
    return tuple(step.reconstruction_size for step in affine)


def _rounded(step: FrozenStep) -> FrozenStep:
    return step.in_bfloat16() if isinstance(step, FrozenCoupling) else step


def _is_stored(bijection: Bijection) -> bool:
    # A data-independent bijection without parameters is a permutation.
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
