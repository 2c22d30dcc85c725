"""Multi-scale flow: levels of bijections over a standard normal base distribution."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from snf_models.bijections.base import (
    Bijection,
    Elementwise,
    SelfNormalizing,
    Shape,
    call,
    first_derivatives,
    sum_samples,
)
from snf_models.bijections.channels import ActNorm, ExactConv1x1, Squeeze
from snf_models.bijections.coupling import AffineCoupling
from snf_models.errors import WHITENING_LAYERS, SettingUnsupported


def apply_layers(
    layers: Sequence[Bijection], x: Tensor, context: Tensor | None = None, *, recompute: bool
) -> tuple[Tensor, Tensor]:
    """Apply layers in order; return the outputs and the summed log-dets in nats, ``(N,)``.

    With ``recompute``, runs of layers with a cheap inverse keep only their output for the backward pass; layers that
    take a context keep their inputs.
    """
    log_det = x.new_zeros(x.shape[0])
    for cheap, group in groupby(layers, key=lambda layer: recompute and layer.cheap_inverse and not layer.context):
        if cheap:
            x, part = _apply_and_forget(list(group), x)
            log_det = log_det + part
            continue
        for layer in group:
            x, part = layer(x, *layer.given(context))
            log_det = log_det + part
    return x, log_det


def _apply_and_forget(layers: list[Bijection], x: Tensor) -> tuple[Tensor, Tensor]:
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    z, log_det, *errors = call(RecomputedLayers, layers, x, *parameters)
    learning = [layer for layer in layers if isinstance(layer, SelfNormalizing)]
    for layer, error in zip(learning, errors, strict=True):
        layer.store_reconstruction_error(error)
    return z, log_det


class RecomputedLayers(torch.autograd.Function):
    """Autograd function that runs invertible layers and stores only the last output (Gomez et al. 2017).

    The backward pass goes from the last layer to the first: it recomputes the input of the layer by its exact inverse,
    runs the layer again on that input, and back-propagates through this one layer. Memory does not grow with the
    number of layers, which are computed three times instead of once. Gradients are those of ordinary
    back-propagation up to the rounding of the inverses.
    """

    @staticmethod
    def forward(ctx: Any, layers: list[Bijection], x: Tensor, *_parameters: nn.Parameter) -> tuple[Tensor, ...]:
        """Return outputs, summed log-dets, and the reconstruction errors of the layers that learn an inverse."""
        log_det, errors = x.new_zeros(x.shape[0]), []
        for layer in layers:
            x, part = layer(x)
            log_det = log_det + part
            if isinstance(layer, SelfNormalizing):
                errors.append(layer.pop_reconstruction_error())
        ctx.layers = layers
        ctx.save_for_backward(x)
        return x, log_det, *errors

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_z, grad_log_det, *grad_errors = gradients
        (z,) = ctx.saved_tensors
        of_parameters: list[Tensor | None] = []
        for layer in reversed(ctx.layers):
            with torch.no_grad():
                x = layer.inverse(z)[0]
            parameters = list(layer.parameters())
            with torch.enable_grad():
                x.requires_grad_()
                outputs = list(layer(x))
                following = [grad_z, grad_log_det]
                if isinstance(layer, SelfNormalizing):
                    outputs.append(layer.pop_reconstruction_error())
                    following.append(grad_errors.pop())
                # A log-det that is the same for all images may have no gradient of its own.
                used = [(out, grad) for out, grad in zip(outputs, following, strict=True) if out.requires_grad]
                learned = [parameter for parameter in parameters if parameter.requires_grad]
                results = iter(
                    torch.autograd.grad(
                        [out for out, _ in used], [x, *learned], [grad for _, grad in used], allow_unused=True
                    )
                )
            grad_z, z = next(results), x.detach()
            of_layer = [next(results) if parameter.requires_grad else None for parameter in parameters]
            of_parameters = [*of_layer, *of_parameters]
        return None, grad_z, *of_parameters


@dataclass(frozen=True)
class ScaleTerm:
    """Contribution of one level, or of the pixel transform, to log-likelihoods, each ``(N,)`` in nats.

    ``log_prior`` is the log-density of the latents of the scale, with the log-det of its prior.
    """

    log_prior: Tensor
    log_det: Tensor


@dataclass(frozen=True)
class FlowOutput:
    """Latents of images, with the terms that add up to their log-likelihoods.

    Attributes:
        latents: Whitened latents of each scale, ``(N, C, H, W)``, finest scale first.
        terms: Terms of the log-likelihood: of the pixel transform, then of the levels 1 to L.
    """

    latents: list[Tensor]
    terms: list[ScaleTerm]

    @property
    def log_likelihood(self) -> Tensor:
        """Log-likelihood of each image in nats, the sum of ``terms``, ``(N,)``."""
        return torch.stack([term.log_prior + term.log_det for term in self.terms]).sum(0)


class Level(nn.Module):
    """One level of a multi-scale flow: invertible layers, after which half of the channels may become latents.

    The prior of these latents is a Gaussian whose mean and deviation are functions of the channels that stay (Kingma &
    Dhariwal 2018, 3.5). It is a coupling that whitens the latents; its log-det is part of ``log_prior``. A level
    without a prior passes all channels on to the next level. All that remain after the last level are latents.

    Args:
        steps: The bijections of the level, first to last.
        prior: The coupling of the split, or None for no split.
        squeeze: Whether the level starts with a squeeze.
    """

    def __init__(self, steps: list[Bijection], prior: AffineCoupling | None = None, *, squeeze: bool = True) -> None:
        super().__init__()
        self.squeeze = Squeeze() if squeeze else None
        self.steps = nn.ModuleList(steps)
        self.prior = prior

    def bijections(self) -> Iterator[Bijection]:
        """Yield the layers in forward order, an optional squeeze first."""
        if self.squeeze is not None:
            yield self.squeeze
        for step in self.steps:
            assert isinstance(step, Bijection)
            yield step


class Flow(nn.Module):
    """Normalizing flow that maps images to normal latents and gives their exact log-likelihood.

    By the change of variables (Keller et al. 2021, eq. 1), log p(x) is the log-det of the pixel transform plus
    Σ_l [log N(e_l; 0, I) + log-dets of level l], with the whitened latents e_l of level l.

    Args:
        pixels: The pixel transform.
        levels: The levels, finest scale first.

    Raises:
        ValueError: The last level splits channels off: the others would have no density. Or layers take contexts of
            different lengths.
    """

    def __init__(self, pixels: Elementwise, levels: list[Level]) -> None:
        super().__init__()
        if levels and levels[-1].prior is not None:
            raise ValueError("expected a last level without a prior, because nothing would model what it keeps")
        self.pixels = pixels
        self.levels = nn.ModuleList(levels)
        self.recompute = False
        """Whether training recomputes the inputs of layers in the backward pass, to save memory."""
        layers = (layer for level in levels for layer in (*level.bijections(), level.prior) if layer is not None)
        lengths = {layer.context for layer in layers} - {0}
        if len(lengths) > 1:
            raise ValueError(f"expected layers with a context of one length, got lengths {sorted(lengths)}")
        self.context = lengths.pop() if lengths else 0
        """Length of the context that layers of the flow take; 0 for a flow without one."""

    def level_list(self) -> list[Level]:
        """Return the levels, finest first."""
        return [level for level in self.levels if isinstance(level, Level)]

    def forward(self, x: Tensor, context: Tensor | None = None) -> FlowOutput:
        """Return latents and log-likelihood of images ``(N, C, H, W)``, 8-bit pixels plus noise in [0, 1).

        A flow with layers that take a context gives log p(x | c) for the contexts, ``(N, K)``.
        """
        y, log_det = self.pixels(x.double())
        return self.forward_pixels(y.to(x.dtype), log_det.to(x.dtype), context)

    def forward_pixels(self, y: Tensor, pixel_log_det: Tensor, context: Tensor | None = None) -> FlowOutput:
        """Run the flow on transformed pixels.

        Args:
            y: Transformed images, ``(N, C, H, W)``.
            pixel_log_det: Log-det of the pixel transform, ``(N,)`` in nats.
            context: Contexts, ``(N, K)``; None for a flow without one.

        Raises:
            ValueError: A context is missing, not expected or of another shape.
        """
        self._check_context(context)
        terms = [ScaleTerm(torch.zeros_like(pixel_log_det), pixel_log_det)]
        latents = []
        levels = self.level_list()
        for level in levels:
            recompute = self.recompute and self.training and torch.is_grad_enabled()
            y, log_det = apply_layers(list(level.bijections()), y, context, recompute=recompute)
            log_prior = torch.zeros_like(log_det)
            if level.prior is not None:
                whitened, log_prior = level.prior(y, *level.prior.given(context))
                y, latent = whitened[:, : level.prior.kept], whitened[:, level.prior.kept :]
                latents.append(latent)
            elif level is levels[-1]:
                latents.append(y)
            if level.prior is not None or level is levels[-1]:
                log_prior = log_prior + standard_normal_log_prob(latents[-1])
            terms.append(ScaleTerm(log_prior, log_det))
        return FlowOutput(latents, terms)

    def inverse(self, latents: list[Tensor], context: Tensor | None = None, *, learned: bool = False) -> Tensor:
        """Return the images, ``(N, C, H, W)``, of latents, finest scale first.

        Args:
            latents: Latents of each scale.
            context: Contexts, ``(N, K)``; None for a flow without one.
            learned: Whether to use the learned inverses in place of the exact ones.
        """
        self._check_context(context)

        def undo(bijection: Bijection, z: Tensor) -> Tensor:
            if learned and bijection.learned_inverse:
                return bijection.approximate_inverse(z)
            return bijection.inverse(z, *bijection.given(context))[0]

        *remaining, y = latents
        for level in reversed(self.level_list()):
            if level.prior is not None:
                y = undo(level.prior, torch.cat([y, remaining.pop()], dim=1))
            for bijection in reversed(list(level.bijections())):
                y = undo(bijection, y)
        return self.pixels.inverse(y.double())[0].to(y.dtype)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None, *, whiten: bool = False) -> None:
        """Initialise normalisation layers so that their outputs for a batch of images have mean 0 and deviation 1.

        Args:
            x: Images, ``(N, C, H, W)``: 8-bit pixels plus noise in [0, 1).
            context: Contexts, ``(N, K)``; None for a flow without one.
            whiten: Whether to set the first 1x1 convolution of each level so that its outputs are white, too. Where a
                normalisation follows directly, the convolution is a rotation and the normalisation scales.

        Raises:
            SettingUnsupported: There is no 1x1 convolution to whiten with.
        """
        y = self.pixels(x.double())[0].to(next(self.levels.parameters()).dtype)
        whitened = 0
        for level in self.level_list():
            layers = list(level.bijections())
            mixing = next((layer for layer in layers if isinstance(layer, ExactConv1x1)), None)
            for bijection, following in zip(layers, [*layers[1:], None], strict=True):
                if isinstance(bijection, ActNorm) and not bijection.initialized:
                    bijection.initialize(y)
                if whiten and mixing is not None and bijection is mixing:
                    mixing.whiten(y, rotate=isinstance(following, ActNorm))
                    whitened += 1
                y = bijection(y, *bijection.given(context))[0]
            if level.prior is not None:
                y = y[:, : level.prior.kept]
        if whiten and not whitened:
            raise SettingUnsupported("whitening", WHITENING_LAYERS)

    def _check_context(self, context: Tensor | None) -> None:
        # The layers check what they take.
        if context is not None and not self.context:
            raise ValueError(f"expected no context: no layer of this flow takes one; got {tuple(context.shape)}")


def walk(flow: Flow, image_shape: Shape) -> Iterator[tuple[Level, list[tuple[str, Bijection, Shape]], Shape]]:
    """Yield each level with name, bijection and input shape of its layers, and the shape of their outputs."""
    names = {id(module): name for name, module in flow.named_modules()}
    shape = image_shape
    for level in flow.level_list():
        steps = []
        for bijection in level.bijections():
            steps.append((names[id(bijection)], bijection, shape))
            shape = bijection.output_shape(shape)
        yield level, steps, shape
        if level.prior is not None:
            shape = (level.prior.kept, *shape[1:])


def latent_shapes(flow: Flow, image_shape: Shape) -> list[Shape]:
    """Return (C, H, W) of the latents of each scale, finest first."""
    *inner, (_, _, coarsest) = walk(flow, image_shape)
    split = [(shape[0] - level.prior.kept, *shape[1:]) for level, _, shape in inner if level.prior is not None]
    return [*split, coarsest]


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Return log N(z; 0, I) of each sample in nats, ``(N, ...) -> (N,)``."""
    dimensions = z[0].numel() if z.shape[0] else 0
    return -0.5 * sum_samples(z.square()) - 0.5 * dimensions * math.log(2 * math.pi)
