"""Base classes of bijections, and the contract that every bijection keeps."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from snf_models.bijections.frozen import FrozenAffine, FrozenMap, FrozenStep
from snf_runtime.scoring import layout
from snf_runtime.scoring.layout import PixelFunction

Gradients = TypeVar("Gradients")


def call(function: type[Function], *inputs: Any) -> Any:
    """Apply an autograd function; ``Function.apply`` itself declares no types."""
    return function.apply(*inputs)


def first_derivatives(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Decorate a backward pass to raise an error if second derivatives are requested.

    Tensors that are kept for the pass have no derivatives of their own, so that second ones would lack terms.
    ``once_differentiable`` of PyTorch notices it only where the incoming gradients need gradients themselves.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Gradients:
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"expected first derivatives alone, got create_graph=True in {backward.__qualname__}, whose second "
                "derivatives are not implemented; take gradients with create_graph=False"
            )
        return backward(ctx, *gradients)

    return checked


Shape = layout.Shape
LogDetGradient = Literal["paper", "newton-schulz"]
"""Approximation of W^-1 in the gradient of log|det W|: the learned inverse R ("paper"), or 2R - R W R, a Newton-Schulz
step from R ("newton-schulz")."""


class Bijection(nn.Module):
    """Base class of invertible layers z = f(x).

    Each direction also returns the log-determinant log|det| of its Jacobian.

    The suite in :mod:`snf_models.bijections.conformance` checks these promises for every bijection:

    - ``forward(x)`` returns ``(z, log_det)`` and ``inverse(z)`` returns ``(x, log_det)``. ``log_det`` is the log-det of
      the direction that was called, one value for each sample, shape ``(N,)``, in nats.
    - Neither direction changes its input or draws noise, and samples of a batch do not influence each other.
    - Both directions are exact in evaluation mode. In training mode a bijection may leave out the value of the log-det
      (``omits_log_det``) and estimate its gradient.
    """

    constant_log_det: ClassVar[bool] = False
    """Whether the log-det is the same for all inputs of a given shape."""
    learned_inverse: ClassVar[bool] = False
    """Whether the bijection learns an approximate inverse, :meth:`approximate_inverse`, beside the map."""
    omits_log_det: ClassVar[bool] = False
    """Whether training mode returns log-det 0 with the right gradient, which avoids the cost of a determinant."""
    cheap_inverse: ClassVar[bool] = False
    """Whether the exact inverse takes about as long as the map, and undoes the map of training mode, too."""
    context: int = 0
    """Length of the context that this layer depends on; 0 for none."""

    def given(self, context: Tensor | None) -> tuple[Tensor, ...]:
        """Return what this layer takes after its input: ``(context,)`` if it depends on a context, else ``()``."""
        return () if context is None or not self.context else (context,)

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log|det dz/dx| in nats, ``(N,)``, for inputs ``x``, ``(N, C, H, W)``."""

    @abstractmethod
    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the x that :meth:`forward` maps to ``z``, and log|det dx/dz| in nats, ``(N,)``."""

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape (C, H, W) of outputs for inputs of ``shape``; by default the same."""
        return shape

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return log|det dz/dx| in nats for images of ``shape`` (C, H, W); 0 if it depends on the image."""
        if self.constant_log_det:
            raise TypeError(f"{type(self).__name__} must define constant_log_det_at")
        return 0.0

    def freeze(self, shape: Shape) -> FrozenStep:
        """Return an immutable float64 copy for scoring inputs of ``shape`` (C, H, W).

        The copy omits a log-det that is equal for all images.

        Raises:
            TypeError: The log-det depends on the data and the class does not define how it is frozen.
        """
        if not self.constant_log_det:
            raise TypeError(f"{type(self).__name__} must define freeze")
        module = copy.deepcopy(self).double().eval()
        learned = module.approximate_inverse if self.learned_inverse else None
        return FrozenMap(lambda x: (module.forward(x)[0], None), lambda z: module.inverse(z)[0], learned)

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Return the inputs for ``z`` by the learned inverse, or the exact ones if none is learned."""
        return self.inverse(z)[0]


class ConstantLogDet(Bijection):
    """Base class of layers whose log-det is the same for all images of a shape."""

    constant_log_det: ClassVar[bool] = True
    channels: int

    def check(self, x: Tensor) -> None:
        """Raise ``ValueError`` for inputs or outputs of another shape."""
        check_images(x, self.channels)

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """Return z."""

    @abstractmethod
    def solve(self, z: Tensor) -> Tensor:
        """Return the exact x of :meth:`transform`."""

    @abstractmethod
    def log_abs_det(self, shape: Shape) -> Tensor:
        """Return log|det dz/dx| of an image of ``shape`` (C, H, W) in nats, a scalar."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.check(x)
        return self.transform(x), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.check(z)
        return self.solve(z), -self.log_det(z)

    def log_det(self, x: Tensor) -> Tensor:
        """Return the log-det of each image in nats, ``(N,)``."""
        return self.log_abs_det((x.shape[1], x.shape[2], x.shape[3])).to(x.dtype).expand(len(x))

    @torch.no_grad()
    def constant_log_det_at(self, shape: Shape) -> float:
        return float(self.log_abs_det(shape))


class ChannelAffine(ConstantLogDet):
    """Base class of layers that apply one affine map z = A x + b to the C channels of each pixel.

    The composition of two such maps is another one, so freezing folds neighbours into one.
    """

    @abstractmethod
    def affine(self) -> tuple[Tensor, Tensor]:
        """Return A, ``(C, C)``, and b, ``(C,)``."""

    def learned_affine(self) -> tuple[Tensor, Tensor] | None:
        """Return matrix and offset of the learned inverse, or None if none is learned."""
        return None

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenAffine:
        """Compute matrix and offset in float64, also where they are products of float32 parameters."""
        exact = copy.deepcopy(self).double()
        matrix, offset = (part.clone() for part in exact.affine())
        learned = exact.learned_affine()
        return FrozenAffine((matrix, offset), None if learned is None else (learned[0].clone(), learned[1].clone()))


class LinearMaps(Protocol):
    """A kind of linear maps W x, whose learned inverses R are of the same kind."""

    def apply(self, weight: Tensor, x: Tensor) -> Tensor: ...

    def transposed(self, weight: Tensor) -> Tensor: ...

    def outer(self, z: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of Σ_n <W x_n, z_n> in W, stored as W is."""
        ...

    def counts(self, x: Tensor, weight: Tensor) -> Tensor | int:
        """Return at how many places of an image each weight stands, broadcast over the weights."""
        ...

    def improved(self, weight: Tensor, inverse_weight: Tensor) -> Tensor:
        """Return a Newton-Schulz step from R."""
        ...


class LinearLayer(ConstantLogDet):
    """Base class of layers z = W x + b."""

    maps: LinearMaps
    weight: nn.Parameter
    bias: nn.Parameter

    def apply_weight(self, x: Tensor) -> Tensor:
        """Return W x in the shape of ``x``, without the offset."""
        return self.maps.apply(self.weight, x)

    def offset(self, x: Tensor) -> Tensor:
        """Return b, broadcast over images such as ``x``; by default it is a number for each channel."""
        return self.bias.view(1, -1, 1, 1)

    def transform(self, x: Tensor) -> Tensor:
        return self.apply_weight(x) + self.offset(x)


class SelfNormalizingProduct(Function):
    """PyTorch autograd function of a product W x whose gradients use a learned approximate inverse R ≈ W⁻¹.

    The objective is the mean of two log-likelihoods, of the flow by W and of its learned inverse by R, minus the
    weighted reconstruction error (Keller et al. 2021, eq. 3). Its gradients need no inverse of W. They are, up to sign,

        dW = (½ δ + 2 v R^T e) ⊗ x + ½ Σc m·R^T
        dR = (2 v e - ½ δx) ⊗ y - ½ Σc m·W^T

    - z ⊗ x: the gradient of <W x, z> with respect to W, for matrices z x^T
    - m: at how many places of an image each weight stands
    - δ, c_n, v_n: the incoming gradients of y, of the log-det and of the reconstruction error of sample n
    - e = R y - x and δx = W^T δ

    The gradient of x is δx: it is not halved, and the reconstruction error has no gradient with respect to x. The cost
    is that of six products: W x, R y, W^T δ, R^T e, and one each for dW and dR.

    If ``gradient`` is "newton-schulz", a Newton-Schulz step from R stands in for R in the term of the log-det of dW.
    This is not in the paper.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, inverse_weight: Tensor, gradient: LogDetGradient, maps: LinearMaps
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = maps.apply(weight, x)
        error = maps.apply(inverse_weight, y) - x
        ctx.save_for_backward(x, y, error, weight, inverse_weight)
        ctx.gradient, ctx.maps = gradient, maps
        return y, x.new_zeros(x.shape[0]), error.square().flatten(1).sum(1)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        grad_y, grad_log_det, grad_error = gradients
        x, y, error, weight, inverse_weight = ctx.saved_tensors
        maps: LinearMaps = ctx.maps
        grad_x = maps.apply(maps.transposed(weight), grad_y)
        share = 0.5 * grad_log_det.sum() * maps.counts(x, weight)
        weighted_error = 2 * grad_error.view(-1, 1, 1, 1) * error
        back = maps.apply(maps.transposed(inverse_weight), weighted_error)
        better = maps.improved(weight, inverse_weight) if ctx.gradient == "newton-schulz" else inverse_weight
        grad_weight = maps.outer(torch.add(back, grad_y, alpha=0.5), x, weight)
        grad_weight.addcmul_(share, maps.transposed(better))
        if not ctx.needs_input_grad[2]:
            return grad_x, grad_weight, None, None, None
        grad_inverse = maps.outer(torch.sub(weighted_error, grad_x, alpha=0.5), y, inverse_weight)
        grad_inverse.addcmul_(share, maps.transposed(weight), value=-1)
        return grad_x, grad_weight, grad_inverse, None, None


class SelfNormalizing(LinearLayer):
    """Base class of layers that learn an approximate inverse of their weights in training.

    The layer is z = W x + b, and it learns a matrix R ≈ W⁻¹ (Keller et al. 2021).

    The forward pass in training mode stores the reconstruction error ||R W x - x||² of each sample, and the training
    objective collects it with :meth:`pop_reconstruction_error`. If ``symmetric`` is set, the error is
    ½ ||R W x - x||² + ½ ||W R y - y||² at y = W x, without a gradient through y.
    """

    learned_inverse: ClassVar[bool] = True
    omits_log_det: ClassVar[bool] = True
    inverse_weight: nn.Parameter
    symmetric: bool = False
    gradient: LogDetGradient = "paper"
    _reconstruction_error: Tensor | None = None

    @property
    def learns_inverse(self) -> bool:
        """Whether training updates the learned inverse; False if it is fixed."""
        return any(each.requires_grad for name, each in self.named_parameters() if name.endswith("inverse_weight"))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return super().forward(x)
        self.check(x)
        y, log_det = self.learning_product(x)
        return y + self.offset(x), log_det

    def learning_product(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return W x and log-dets of value 0 with their gradients; store the reconstruction errors."""
        y, log_det, error = call(SelfNormalizingProduct, x, self.weight, self.inverse_weight, self.gradient, self.maps)
        self.keep_reconstruction_error(error, y)
        return y, log_det

    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        """Return R z for the learned R ≈ W⁻¹, in the shape of ``z``."""
        return self.maps.apply(self.inverse_weight, z)

    @abstractmethod
    def refresh_inverse(self, shape: Shape) -> None:
        """Replace R by the exact W⁻¹ for inputs of ``shape`` (C, H, W), or by the nearest that R can represent."""

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Return R (z - b)."""
        self.check(z)
        return self.apply_inverse_weight(z - self.offset(z))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return R W x, which equals ``x`` if R = W⁻¹."""
        return self.apply_inverse_weight(self.apply_weight(x))

    def keep_reconstruction_error(self, error: Tensor, y: Tensor) -> None:
        """Store the errors ||R W x - x||², ``(N,)``, made symmetric at y = W x if ``symmetric`` is set."""
        if self.symmetric:
            data = y.detach()
            back = self.apply_weight(self.apply_inverse_weight(data)) - data
            error = 0.5 * (error + sum_samples(back.square()))
        self._reconstruction_error = error

    def store_reconstruction_error(self, error: Tensor) -> None:
        """Store errors as they are, ``(N,)``."""
        self._reconstruction_error = error

    def pop_reconstruction_error(self) -> Tensor:
        """Return the errors of the last training batch, ``(N,)``, and forget them.

        Raises:
            RuntimeError: No forward pass in training mode has run since the last call.
        """
        error, self._reconstruction_error = self._reconstruction_error, None
        if error is None:
            raise RuntimeError("expected a forward pass in training mode before the reconstruction error is taken")
        return error


class Elementwise(Bijection):
    """Base class of layers that map each value separately: log|det dz/dx| = Σ log|dz_i/dx_i|."""

    @property
    def domain(self) -> Constraint:
        """The values that the layer can map; by default all real numbers."""
        return constraints.real

    @abstractmethod
    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z = f(x) and log|dz/dx|, both in the shape of ``x``."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_slope = self.map_with_slope(x)
        return z, sum_samples(log_slope)

    def settled(self) -> Elementwise:
        """Return a copy for scoring, unaffected by later training."""
        return copy.deepcopy(self)

    def pixel_function(self) -> PixelFunction:
        """Return the function on NumPy arrays, for scoring; only functions of ``snf_runtime`` can be exported."""
        return TorchPixelFunction(self)

    def freeze(self, shape: Shape) -> FrozenStep:
        return _frozen_slopes(self)


class Conditional(Bijection):
    """Base class of layers z = f(x; c) with a triangular Jacobian, which may depend on a context c.

    A context is a vector of K numbers for each sample, such as a class in one-hot form. The layer is a bijection of x
    for each c, and models p(x | c). Its log-det is the sum of the log-slopes log|dz_i/dx_i|.

    Args:
        context: The length K of a context; 0 for a layer of x alone.

    Raises:
        ValueError: ``context`` is negative.
    """

    flat: ClassVar[bool] = False
    """Whether the layer connects each pixel with all others."""

    def __init__(self, context: int = 0) -> None:
        super().__init__()
        if context < 0:
            raise ValueError(f"expected the length of a context, 0 for none, got {context}")
        self.context = context

    @abstractmethod
    def map_with_slope(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z ``(N, C, H, W)`` and the log-slopes log|dz_i/dx_i| of the values that change, ``(N, C', H, W)``."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z and log|det dz/dx| in nats, ``(N,)``.

        Args:
            x: Inputs, ``(N, C, H, W)``.
            context: Contexts, ``(N, K)``; None for a layer without one.

        Raises:
            ValueError: ``x`` or ``context`` has another shape, or a context is missing or not expected.
        """
        z, log_slope = self.map_with_slope(x, context)
        return z, sum_samples(log_slope)

    @abstractmethod
    def inverse_with_slope(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the inputs that :meth:`map_with_slope` maps to ``z``, and the same log-slopes at them."""

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log|det dx/dz| in nats, ``(N,)``, for arguments as those of :meth:`forward`."""
        x, log_slope = self.inverse_with_slope(z, context)
        return x, -sum_samples(log_slope)

    def freeze(self, shape: Shape) -> FrozenStep:
        """Freeze as :meth:`Bijection.freeze`; raise ``ValueError`` if the layer takes a context."""
        refuse_context(self.context)
        return _frozen_slopes(self, flat=self.flat)


def _frozen_slopes(layer: Elementwise | Conditional, *, flat: bool = False) -> FrozenMap:
    module = copy.deepcopy(layer).double().eval()

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_slope = module.map_with_slope(x)
        return z, log_slope.sum(1)

    return FrozenMap(forward, lambda z: module.inverse(z)[0], flat=flat)


@dataclass(frozen=True)
class TorchPixelFunction:
    """The map of an elementwise layer on float64 NumPy arrays."""

    layer: Elementwise

    @torch.no_grad()
    def map_with_slope(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        y, log_slope = self.layer.map_with_slope(torch.from_numpy(x))
        return y.numpy(), log_slope.numpy()


def check_images(x: Tensor, channels: int) -> None:
    """Raise ``ValueError`` unless ``x`` has the shape ``(N, C, H, W)`` with C = ``channels``."""
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"expected a tensor of shape (N, {channels}, H, W), got {tuple(x.shape)}")


def check_shape(x: Tensor, shape: Shape) -> None:
    """Raise ``ValueError`` unless ``x`` has the shape ``(N, *shape)``."""
    if x.shape[1:] != shape:
        raise ValueError(f"expected a tensor of shape (N, {', '.join(map(str, shape))}), got {tuple(x.shape)}")


def check_context(context: Tensor | None, samples: int, length: int) -> None:
    """Raise ``ValueError`` unless there is a context ``(samples, length)``, or none if ``length`` is 0."""
    got = None if context is None else tuple(context.shape)
    if got != ((samples, length) if length else None):
        expected = f"a context of shape ({samples}, {length})" if length else "no context: the layer takes none"
        raise ValueError(f"expected {expected}, got {'none' if got is None else got}")


def refuse_context(length: int) -> None:
    """Raise ``ValueError`` if a flow or layer that is to be trained by a job, stored or frozen takes a context."""
    if length:
        raise ValueError(
            f"expected no context, got layers with a context of {length} numbers: models that are trained by jobs, "
            "stored and served take images alone; use FlowDistribution in Python"
        )


def vectors_of(x: Tensor, dimensions: int) -> Tensor:
    """Return images ``(N, C, H, W)`` as vectors ``(N, D)``. Raises ``ValueError`` for another shape."""
    if x.dim() != 4 or x.shape[1:].numel() != dimensions:
        raise ValueError(f"expected images (N, C, H, W) of {dimensions} dimensions, got {tuple(x.shape)}")
    return x.flatten(1)


def sum_samples(x: Tensor) -> Tensor:
    """Return the sum of each sample, ``(N, ...) -> (N,)``."""
    return torch.sum(x.flatten(1), dim=1)
