"""Multi-scale flow: levels of bijections over a standard normal base distribution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snf_models.bijections.actnorm import ActNorm
from snf_models.bijections.base import Bijection, Elementwise, Shape, sum_samples
from snf_models.bijections.conv1x1 import ExactConv1x1
from snf_models.bijections.coupling import AffineCoupling
from snf_models.bijections.squeeze import Squeeze
from snf_models.errors import WHITENING_LAYERS, SettingUnsupported
from snf_models.flows.recomputation import apply_layers


@dataclass(frozen=True)
class ScaleTerm:
    """Contribution of one level of a flow to the log-likelihood of each image, in nats.

    The pixel transform has a contribution, too.

    Attributes:
        log_prior: Log-density of the latents of the scale, with the log-det of its prior, ``(N,)`` in nats.
        log_det: Log-det of the bijections of the scale, ``(N,)`` in nats.
    """

    log_prior: Tensor
    log_det: Tensor


@dataclass(frozen=True)
class FlowOutput:
    """Latents that a flow computes for images, with the terms that add up to their log-likelihoods.

    Attributes:
        latents: Whitened latents of each scale, ``(N, C, H, W)``, finest scale first.
        terms: Terms of the log-likelihood: of the pixel transform, then of the levels 1 to L.
    """

    latents: list[Tensor]
    terms: list[ScaleTerm]

    @property
    def log_likelihood(self) -> Tensor:
        """Log-likelihood of each image, in nats.

        It is the sum of the contributions in ``terms``, ``(N,)``.
        """
        return torch.stack([term.log_prior + term.log_det for term in self.terms]).sum(0)


class Level(nn.Module):
    """One level of a multi-scale flow, a sequence of invertible layers.

    After its layers, half of the channels may be split off as latents.

    The prior of these latents is a Gaussian whose mean and deviation are functions of the channels that stay (Kingma &
    Dhariwal 2018, 3.5 and table 1). It is a coupling that whitens the latents to a standard normal; its log-det is part
    of ``log_prior``. A level without a prior passes all channels on to the next level. All channels that remain after
    the last level are latents.

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
        """Yield the invertible layers of the level in forward order.

        The optional squeeze of 2x2 pixels comes first.
        """
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
        """Return the levels of the flow, finest resolution first.

        A level is a group of layers at one resolution.
        """
        return [level for level in self.levels if isinstance(level, Level)]

    def forward(self, x: Tensor, context: Tensor | None = None) -> FlowOutput:
        """Return the latents and the log-likelihood of images.

        The images ``x`` are ``(N, C, H, W)``, 8-bit pixels plus noise in [0, 1). A flow with layers that take a context
        gives log p(x | c) for the contexts, ``(N, K)``.
        """
        y, log_det = self.pixels(x.double())
        return self.forward_pixels(y.to(x.dtype), log_det.to(x.dtype), context)

    def forward_pixels(self, y: Tensor, pixel_log_det: Tensor, context: Tensor | None = None) -> FlowOutput:
        """Run the flow on already transformed pixels; return latents and log-likelihoods of the original images.

        The pixel transform is the first layer of the flow. Its log-det is part of the log-likelihood.

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
        """Return the images that result from running the flow backwards on given latents.

        They are computed by exact inverses, or by learned approximate inverses.

        Args:
            latents: Latents of each scale, finest scale first.
            context: Contexts, ``(N, K)``; None for a flow without one.
            learned: Whether to use the learned inverses in place of the exact ones.

        Returns:
            Images, ``(N, C, H, W)``.
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
        """Initialise the flow's normalisation layers from the statistics of a batch of images.

        A layer that is not initialised yet is set so that its outputs for the images ``x`` have mean 0 and deviation 1.

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
    """Yield each level of a flow with its layers and their input shapes.

    Args:
        flow: The flow.
        image_shape: Channels, height and width of the images.

    Yields:
        The level; name, bijection and input shape of each of its bijections; the shape of their outputs.
    """
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
    """Return the shape (C, H, W) of the latents of each scale of a flow, finest scale first.

    Args:
        flow: The flow.
        image_shape: Channels, height and width of the images.
    """
    *inner, (_, _, coarsest) = walk(flow, image_shape)
    split = [(shape[0] - level.prior.kept, *shape[1:]) for level, _, shape in inner if level.prior is not None]
    return [*split, coarsest]


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Return the standard normal log-density of each sample, in nats.

    It is log N(z; 0, I). The shape changes from ``(N, ...)`` to ``(N,)``.
    """
    dimensions = z[0].numel() if z.shape[0] else 0
    return -0.5 * sum_samples(z.square()) - 0.5 * dimensions * math.log(2 * math.pi)
