"""Back-propagation that recomputes the inputs of invertible layers from their outputs to save memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from snf_models.bijections.autograd_calls import call, first_derivatives
from snf_models.bijections.base import Bijection, SelfNormalizing


def apply_layers(
    layers: Sequence[Bijection], x: Tensor, context: Tensor | None = None, *, recompute: bool
) -> tuple[Tensor, Tensor]:
    """Apply the layers of a flow in order, and sum up their log-determinants for each image.

    Returns the outputs, and the sums in nats, ``(N,)``.

    Args:
        layers: The layers, first to last.
        x: Inputs of the first layer, ``(N, C, H, W)``.
        context: Contexts of the layers that take one, ``(N, K)``.
        recompute: Whether runs of layers with a cheap inverse keep only their output for the backward pass; layers that
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
    """Autograd function that runs invertible layers and stores only the last output, to save memory.

    The method is that of Gomez et al. 2017.

    The backward pass goes from the last layer to the first: it recomputes the input of the layer by its exact inverse,
    runs the layer again on that input, and back-propagates through this one layer. Memory does not grow with the
    number of layers, which are computed three times instead of once. Gradients are those of ordinary
    back-propagation up to the rounding of the inverses.
    """

    @staticmethod
    def forward(ctx: Any, layers: list[Bijection], x: Tensor, *_parameters: nn.Parameter) -> tuple[Tensor, ...]:
        """Run invertible layers in order, and store only the last output for the backward pass.

        The result has outputs, log-determinants and reconstruction errors, which say how badly a learned inverse undoes
        its layer.

        The outputs are those of the last layer. The log-determinants, ``(N,)`` in nats, are summed over the layers.
        Only layers with a learned inverse have reconstruction errors.
        """
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
        """Return the gradients with respect to the inputs and all parameters of the layers.

        The list of layers gets None in place of a gradient.
        """
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
