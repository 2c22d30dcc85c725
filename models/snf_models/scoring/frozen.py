"""Immutable copies of trained flows, which score and sample without computing determinants."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from snf_models.bijections.base import Bijection, Elementwise, Shape
from snf_models.bijections.convolution_matrix import LinAlgError
from snf_models.bijections.coupling import FrozenCoupling
from snf_models.bijections.frozen import FrozenAffine, FrozenStep, Inverse, has_learned_inverse
from snf_models.errors import NoLearnedInverse, SingularLayer
from snf_models.flows.flow import Flow, walk
from snf_runtime.parallelism import Steps, chunk_size
from snf_runtime.scoring.density import Engine
from snf_runtime.scoring.layout import FlowLayout, LevelLayout, Precision

LARGEST_ROUND_TRIP_ERROR = 1e-6
PROBES = 4  # images of white noise


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
        has_learned_inverse=any(has_learned_inverse(step) for level in levels for step in level.steps),
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


Array = NDArray[np.float64]


@runtime_checkable
class FlowEngine(Engine, Protocol):
    """Engine that runs a trained flow from pixels to latents and back."""

    frozen: FrozenFlow

    def inverse(self, scales: list[Array], inverse: Inverse) -> Array:
        """Map latents back to the input of the flow: images after the pixel transform, such as logits.

        The caller inverts the pixel transform.

        Args:
            scales: Whitened latents of each scale, ``(N, C, H, W)``, finest scale first.
            inverse: "exact", or "learned" for the learned approximate inverse of each layer that has one.

        Returns:
            Images before the inverse of the pixel transform, float64 ``(N, C, H, W)``.
        """
        ...


@torch.inference_mode()
def sample_frozen(
    engine: FlowEngine,
    frozen: FrozenFlow,
    n: int,
    temperature: float = 1.0,
    seed: int = 0,
    inverse: Inverse = "exact",
    first: int = 0,
) -> NDArray[np.float64]:
    """Draw images, float64 ``(n, C, H, W)``: image i depends on the seed and i alone."""
    shapes = frozen.latent_shapes()
    dimensions = int(np.prod(frozen.image_shape))
    noise = np.stack([np.random.default_rng((seed, i)).standard_normal(dimensions) for i in range(first, first + n)])
    parts = np.split(noise * temperature, np.cumsum([np.prod(shape) for shape in shapes])[:-1], axis=1)
    scales = [part.reshape(n, *shape) for part, shape in zip(parts, shapes, strict=True)]
    y = torch.from_numpy(engine.inverse(scales, inverse))
    images: NDArray[np.float64] = frozen.pixels.inverse(y)[0].numpy()
    return images


def to_pixels(images: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.floor(images).clip(0, 255).astype(np.uint8)


class Sampler:
    """Source of random images of a flow: image i depends on the seed and i alone."""

    def __init__(self, engine: FlowEngine, frozen: FrozenFlow, threads: int | None = None) -> None:
        self.engine = engine
        self.frozen = frozen
        self._threads = threads

    @property
    def chunk_size(self) -> int:
        """Images between two pauses: a micro-batch a thread, fewer large ones."""
        return chunk_size(math.prod(self.frozen.image_shape[1:]), self._threads or torch.get_num_threads())

    def sample(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact", first: int = 0
    ) -> NDArray[np.uint8]:
        """Draw images from ``first`` on, uint8 ``(n, C, H, W)``; ``NoLearnedInverse`` if the flow has none."""
        return to_pixels(self.sample_continuous(n, temperature, seed, inverse, first))

    def sample_steps(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact"
    ) -> Steps[NDArray[np.uint8]]:
        """Draw as :meth:`sample` in a generator that pauses between small groups."""
        parts = []
        for first in range(0, n, self.chunk_size):
            if first:
                yield
            parts.append(self.sample(min(self.chunk_size, n - first), temperature, seed, inverse, first))
        return np.concatenate(parts)

    def sample_continuous(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact", first: int = 0
    ) -> NDArray[np.float64]:
        """Draw as :meth:`sample`, but unrounded in float64."""
        if inverse == "learned" and not self.frozen.has_learned_inverse:
            raise NoLearnedInverse("every layer of this model is inverted exactly; ask for inverse=exact")
        return sample_frozen(self.engine, self.frozen, n, temperature, seed, inverse, first)
