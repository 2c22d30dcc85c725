"""Flows as distributions of PyTorch: log-densities and samples as tensors, for images and for vectors."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints
from torch.distributions.constraints import Constraint

from snf_models.bijections.activations import Identity
from snf_models.bijections.base import Bijection, SelfNormalizing, Shape
from snf_models.flows.architecture import LevelSpec, RepeatSpec, shaped
from snf_models.flows.flow import Flow, Level, latent_shapes, standard_normal_log_prob
from snf_models.flows.layers import LayerSpec, SelfNormalizingOneByOneSpec, SplineSpec


class GaussianBase(nn.Module):
    """Base distribution N(μ, diag σ²) of the latents, with learned means and deviations.

    With ``classes`` there is a mean and a deviation for each class, and the context is the class of each sample. All
    means start at 0 and all deviations at 1. A module that maps a context to another distribution of PyTorch can take
    its place.

    Args:
        shape: Shape of the latents.
        classes: The number of classes; None for a base without a context.
    """

    def __init__(self, shape: Sequence[int], classes: int | None = None) -> None:
        super().__init__()
        if classes is not None and classes < 1:
            raise ValueError(f"expected at least one class, got {classes}")
        self.shape = torch.Size(shape)
        self.classes = classes
        size = self.shape if classes is None else (classes, *self.shape)
        self.mean = nn.Parameter(torch.zeros(size))
        self.log_scale = nn.Parameter(torch.zeros(size))

    def forward(self, context: Tensor | None = None) -> Independent[Normal]:
        """Return the distribution of the latents for class labels, integers of any shape; None without classes.

        Its batch shape is that of ``context``.

        Raises:
            ValueError: There is a context and no class, or there are classes and no labels of them.
        """
        mean: Tensor = self.mean
        log_scale: Tensor = self.log_scale
        if self.classes is not None:
            labels = self._labels(context, self.classes)
            mean, log_scale = mean[labels], log_scale[labels]
        elif context is not None:
            raise ValueError("expected no context: this base distribution has no classes")
        # Values are checked before they become latents.
        normal = Normal(mean, log_scale.exp(), validate_args=False)
        return Independent(normal, len(self.shape), validate_args=False)

    @staticmethod
    def _labels(context: Tensor | None, classes: int) -> Tensor:
        expected = f"expected a context of class labels, integers from 0 to {classes - 1}"
        if context is None:
            raise ValueError(f"{expected}, got none")
        if context.is_floating_point() or context.is_complex() or context.dtype == torch.bool:
            raise ValueError(f"{expected}, got {context.dtype}")
        if context.numel() and (int(context.min()) < 0 or int(context.max()) >= classes):
            raise ValueError(f"{expected}, got labels from {int(context.min())} to {int(context.max())}")
        return context.long()


class FlowDistribution(nn.Module, Distribution):
    """PyTorch distribution of images or vectors that is given by a normalizing flow.

    It is a module and a distribution of PyTorch. Threads must not share it while it is in training mode, or while one
    of them calls :meth:`self_normalizing_objective`.

    :meth:`log_prob` is the log-density at a given point; the ``log_likelihood`` of a scorer is that at an 8-bit image
    plus noise that is a function of image and model.

    The base distribution is standard normal, or ``base`` for the latents of the coarsest scale. With layers that take a
    context (:class:`~snf_models.bijections.base.Conditional`) it is p(x | c) for vectors c of ``flow.context``
    numbers, and the base distribution gets none. Without such layers, the context is that of the base distribution.

    Args:
        flow: The flow, which is shared, not copied.
        event_shape: Shape of a sample: ``(C, H, W)`` of images or ``(D,)`` of vectors, which layers treat as ``(D, 1,
        1)``. base: A module that maps a context to a distribution of the latents, such as :class:`GaussianBase`. Its
        batch
            shape is that of the context. Latents are ``(D,)`` for vectors, and for images the last of
            ``latent_shapes``.
        validate_args: Whether arguments are checked; None for the default of ``torch.distributions``.

    Raises:
        ValueError: ``event_shape`` is neither that of an image nor that of a vector.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    has_rsample = True

    def __init__(
        self,
        flow: Flow,
        event_shape: Sequence[int],
        base: nn.Module | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        nn.Module.__init__(self)
        Distribution.__init__(self, event_shape=torch.Size(event_shape), validate_args=validate_args)
        self.flow = flow
        self.base = base
        self.image_shape = _image_shape(event_shape)
        self.latent_shapes = latent_shapes(flow, self.image_shape)

    @property
    def support(self) -> Constraint:
        """Constraint on the values: those that the pixel transform can map."""
        dimensions = len(self.event_shape)
        support: Constraint = constraints.independent(self.flow.pixels.domain, dimensions)
        return support

    def forward(self, value: Tensor, context: Tensor | None = None) -> Tensor:
        """Return :meth:`log_prob`, for wrappers of modules such as ``DistributedDataParallel``."""
        return self.log_prob(value, context)

    def log_prob(self, value: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the exact log-density in nats, ``(...)``; its gradient in the parameters is exact, too.

        The layers compute their determinants, at O(D³) a step where a layer mixes D values. In training mode a
        convolution exponential takes fewer terms of its series, and an exact dense layer computes its determinant in
        float32.

        Args:
            value: Dequantised images, pixels from 0 to 255 plus noise in [0, 1), ``(..., C, H, W)``; or vectors,
                ``(..., D)``.
            context: The context of the layers, vectors ``(..., K)``; or of the base distribution, such as class labels
                ``(...)``. Its shape ``(...)`` is broadcast with that of ``value``.

        Raises:
            ValueError: The shape, the type or the values of an argument are not possible.
        """
        # The flow itself, because recomputation in the backward pass would run the layers in their own mode.
        with _in_mode([self.flow, *self._estimating_layers()], training=False):
            return self._log_density(value, context)

    def self_normalizing_objective(
        self, value: Tensor, context: Tensor | None = None, reconstruction_weight: float = 1.0
    ) -> Tensor:
        """Return a training objective with the self-normalizing gradient, ``(...)``, whose mean is to be maximised.

        It is ½ log p_f(x) + ½ log p_g(x) - λ Σ_k ||R_k W_k h_k - h_k||² for the weights W_k, the learned inverses R_k
        and the inputs h_k of the self-normalizing layers k (Keller et al. 2021, eq. 3). No determinant of these layers
        is computed: the *value* lacks their log-dets, so it is no log-density, and the *gradient* is that of the paper
        (eq. 10 and 11). Relative-gradient layers have their own gradient. For a flow of exact layers it is
        :meth:`log_prob`.

        Args:
            value: Images or vectors, as for :meth:`log_prob`.
            context: The context, as for :meth:`log_prob`.
            reconstruction_weight: The weight λ of the errors of the learned inverses.
        """
        layers = list(self._estimating_layers())
        with _in_mode(layers, training=True):
            objective = self._log_density(value, context)
        for layer in layers:
            if isinstance(layer, SelfNormalizing):
                errors = layer.pop_reconstruction_error().view(self._leading(value, self._vectors(context)))
                objective = objective - reconstruction_weight * errors
        return objective

    def initialize(self, value: Tensor, context: Tensor | None = None) -> None:
        """Initialise the flow's normalisation layers from a batch, so that outputs have mean 0 and deviation 1.

        Args:
            value: Images, ``(N, C, H, W)``, or vectors, ``(N, D)``.
            context: The context of the layers, ``(N, K)``; None for a flow without one.
        """
        self._check(value)
        self.flow.initialize(value.reshape(-1, *self.image_shape), self._vectors(context))

    def sample(self, sample_shape: Sequence[int] = (), context: Tensor | None = None) -> Tensor:
        """Draw as :meth:`rsample`, without gradients."""
        with torch.no_grad():
            return self._draw(torch.Size(sample_shape), context, with_gradients=False)

    def rsample(self, sample_shape: Sequence[int] = (), context: Tensor | None = None) -> Tensor:
        """Draw random images or vectors, with gradients for the parameters of the flow and its base distribution.

        A sample is the exact inverse of the flow at random latents from torch's global generator.

        Args:
            sample_shape: Shape of the samples to draw, for each element of the context.
            context: As for :meth:`log_prob`.

        Returns:
            Samples, ``(*sample_shape, *broadcast shape, *event_shape)``. Pixels are real numbers.
        """
        return self._draw(torch.Size(sample_shape), context, with_gradients=True)

    def _draw(self, sample_shape: torch.Size, context: Tensor | None, *, with_gradients: bool) -> Tensor:
        base, vectors, like = self._base_of(context), self._vectors(context), self._like()
        batch: torch.Size = torch.broadcast_shapes(self.batch_shape, () if vectors is None else vectors.shape[:-1])
        if base is not None:
            batch = torch.broadcast_shapes(batch, base.batch_shape)
            base = base if base.batch_shape == batch else base.expand(batch)
        leading = sample_shape + batch
        count = math.prod(leading)
        latents = [torch.randn(count, *shape, dtype=like.dtype, device=like.device) for shape in self.latent_shapes]
        if base is not None:
            coarsest = base.rsample(sample_shape) if with_gradients else base.sample(sample_shape)
            latents[-1] = coarsest.to(like).reshape(count, *self.latent_shapes[-1])
        return self.flow.inverse(latents, _flat(vectors, leading)).reshape(*leading, *self.event_shape)

    def expand(self, batch_shape: Sequence[int], _instance: Self | None = None) -> Self:
        """Return a copy with another batch shape, which shares the flow."""
        expanded = copy.copy(self)
        expanded._batch_shape = torch.Size(batch_shape)
        return expanded

    def _log_density(self, value: Tensor, context: Tensor | None) -> Tensor:
        self._check(value)
        base, vectors, like = self._base_of(context), self._vectors(context), self._like()
        leading = self._leading(value, vectors)
        x = value.expand(*leading, *self.event_shape).reshape(math.prod(leading), *self.image_shape)
        y, pixel_log_det = self.flow.pixels(x.double())
        output = self.flow.forward_pixels(y.to(like.dtype), pixel_log_det.to(like.dtype), _flat(vectors, leading))
        log_density = output.log_likelihood.view(leading)
        if base is None:
            return log_density
        coarsest = output.latents[-1]
        # The context of a base is broadcast after the flow, which does not depend on it.
        log_base = base.log_prob(coarsest.view(*leading, *base.event_shape))
        return log_density - standard_normal_log_prob(coarsest).view(leading) + log_base

    def _base_of(self, context: Tensor | None) -> Distribution | None:
        if self.base is not None:
            base: Distribution = self.base(None if self.flow.context else context)
            expected = self.event_shape if len(self.event_shape) == 1 else torch.Size(self.latent_shapes[-1])
            if base.event_shape != expected:
                raise ValueError(
                    f"expected a base distribution of latents {tuple(expected)}, got one of {tuple(base.event_shape)}"
                )
            return base
        if context is not None and not self.flow.context:
            raise ValueError(
                "expected no context: the base distribution of this flow is standard normal, and no layer takes one"
            )
        return None

    def _vectors(self, context: Tensor | None) -> Tensor | None:
        """Return the context of the layers in the type of the flow; None for a flow whose layers take none."""
        length = self.flow.context
        if not length:
            return None
        if context is None or context.shape[-1:] != (length,):
            got = "none" if context is None else tuple(context.shape)
            raise ValueError(
                f"expected a context of shape (..., {length}), got {got}; class labels are given as one-hot vectors"
            )
        if self._validate_args and not context.isfinite().all():
            raise ValueError("expected a context of finite numbers, got NaN or infinity")
        return context.to(self._like())

    def _check(self, value: Tensor) -> None:
        if not value.is_floating_point():
            raise ValueError(
                f"expected real numbers, got {value.dtype}; 8-bit pixels become real ones by noise in [0, 1)"
            )
        if value.shape[value.dim() - len(self.event_shape) :] != self.event_shape:
            shape = ", ".join(map(str, self.event_shape))
            raise ValueError(f"expected a tensor of shape (..., {shape}), got {tuple(value.shape)}")
        if self._validate_args:
            inside: Tensor = self.flow.pixels.domain.check(value)
            if not inside.all():
                outside = int((~inside).sum())
                raise ValueError(
                    f"expected values in {self.flow.pixels.domain}, got {outside} of {value.numel()} outside of it"
                )

    def _leading(self, value: Tensor, vectors: Tensor | None) -> torch.Size:
        own = value.shape[: value.dim() - len(self.event_shape)]
        given = () if vectors is None else vectors.shape[:-1]
        leading: torch.Size = torch.broadcast_shapes(own, self.batch_shape, given)
        return leading

    def _like(self) -> Tensor:
        """Return a tensor of the type and the device of the flow."""
        return next(self.flow.levels.parameters(), torch.empty(0))

    def _estimating_layers(self) -> Iterator[Bijection]:
        """Yield the layers whose log-det has the value 0 in training mode, and an estimate of its gradient."""
        for module in self.flow.modules():
            if isinstance(module, Bijection) and module.omits_log_det:
                yield module


def _image_shape(event_shape: Sequence[int]) -> Shape:
    match tuple(event_shape):
        case (channels, height, width):
            return channels, height, width
        case (dimensions,):
            return dimensions, 1, 1
    raise ValueError(f"expected the shape of an image (C, H, W) or of a vector (D,), got {tuple(event_shape)}")


def _flat(vectors: Tensor | None, leading: torch.Size) -> Tensor | None:
    """Return vectors ``(..., K)``, broadcast to a leading shape, as ``(N, K)``."""
    if vectors is None:
        return None
    return vectors.expand(*leading, -1).reshape(math.prod(leading), vectors.shape[-1])


@contextmanager
def _in_mode(modules: Sequence[nn.Module], *, training: bool) -> Iterator[None]:
    """Run modules in training or evaluation mode for a while; their parts keep their own mode."""
    before = [(module, module.training) for module in modules]
    for module, _ in before:
        module.training = training
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training


STEP = (SelfNormalizingOneByOneSpec(), SplineSpec(bins=16, bound=5.0))
"""A matrix that learns its inverse, then a spline for each value: a few of them fit any density of few dimensions.

Values have a deviation of about 1, so the bins are narrower than those for images.
"""


def vector_flow(
    dimensions: int,
    step: Sequence[LayerSpec] = STEP,
    *,
    repeat: int = 8,
    base: nn.Module | None = None,
    context: int = 0,
) -> FlowDistribution:
    """Build a new, untrained flow over vectors ``(D,)``, whose values should have a deviation of about 1.

    Layers treat a vector as an image ``(D, 1, 1)``. So a 1x1 convolution is a dense matrix that starts as a random
    rotation, ``self-normalizing-dense`` one that starts as the identity, and a coupling splits the D values into
    halves.

    Args:
        dimensions: The number of values D of a vector.
        step: Descriptions of the layers of a step, of any registered type.
        repeat: The number of steps, each with weights of its own.
        base: A learned base distribution of shape ``(D,)``; None for the standard normal distribution.
        context: Length K of the context of a conditional flow p(x | c), for all layers of types that can take one.

    Raises:
        ValueError: A layer cannot take vectors of this length, no layer can take a context, or the flow is too large.
    """
    level = LevelSpec(squeeze=False, steps=(RepeatSpec(repeat=repeat, steps=tuple(step)),))
    [checked] = shaped([level], (dimensions, 1, 1))
    layers = [layer.build(checked.shape, context) for layer in checked.layers]
    flow = Flow(Identity(), [Level(layers, squeeze=False)])
    if flow.context != context:
        raise ValueError(f"expected a layer that can take a context, such as affine-coupling, for {context=}, got none")
    return FlowDistribution(flow, (dimensions,), base)
