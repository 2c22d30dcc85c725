"""Conformance suite: the contract of :class:`~snf_models.bijections.base.Bijection`, checked for one layer.

It needs no test framework. A failed check raises ``AssertionError``::

    check(Case("my-layer", lambda: MyLayer(3), shapes=((3, 4, 5), (3, 1, 1))))
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.testing import assert_close

from snf_models.bijections.base import Bijection, SelfNormalizing
from snf_models.bijections.channels import ActNorm

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A bijection to check: how to make it, the images that it takes, and those that it refuses.

    Attributes:
        name: Name of the case in reports.
        make: Makes a new bijection. One that takes a context is checked with random contexts.
        shapes: Shapes ``(C, H, W)`` of images that it takes, at least one.
        refused: Whole shapes of inputs that ``forward`` refuses by ``ValueError``, each with a pattern of the text.
        inverse_refused: The same for ``inverse``.
        pixels: Whether inputs are pixels in [0, 256), and not any real numbers.
        volume_preserving: Whether the log-det is 0 for all inputs.
        training_tolerance: How far training mode may be off, where it computes less precisely than evaluation mode.
        exact_learned_inverse: Whether the learned inverse can be exact; False for kernels, whose inverse is no kernel.
    """

    name: str
    make: Callable[[], Bijection]
    shapes: tuple[Shape, ...]
    refused: tuple[tuple[Shape, str], ...] = ()
    inverse_refused: tuple[tuple[Shape, str], ...] = ()
    pixels: bool = False
    volume_preserving: bool = False
    training_tolerance: float = 1e-12
    exact_learned_inverse: bool = True


def check(case: Case) -> int:
    """Check that a bijection keeps the contract, in float64 on a CPU.

    The checks are of shapes and types, round trips, log-dets against the whole Jacobian, independence of samples,
    gradients, storing, refused inputs, and contexts where the bijection takes one.

    Args:
        case: The bijection. Every parameter is moved at random before it is checked.

    Returns:
        The number of checks.

    Raises:
        AssertionError: A promise is not kept; the text says which.
        ValueError: The case has no shapes.
    """
    if not case.shapes:
        raise ValueError("expected at least one shape of images, got none")
    checks: list[Callable[[], None]] = [partial(each, case, shape) for shape in case.shapes for each in SHAPE_CHECKS]
    checks += [partial(each, case) for each in (*LAYER_CHECKS, *(CONTEXT_CHECKS if case.make().context else ()))]
    for direction, refused in (("forward", case.refused), ("inverse", case.inverse_refused)):
        checks += [partial(inputs_are_refused, case, direction, *each) for each in refused]
    for each in checks:
        each()
    return len(checks)


def build(case: Case, dtype: torch.dtype = torch.float64) -> Bijection:
    """Return the bijection of a case in evaluation mode, with every parameter moved away from its start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        bijection = case.make()
    mark_initialized(bijection)
    randomise(bijection, 0.25, seed=2)
    # Transforms of pixels keep their float64 buffers: they are never converted.
    return (bijection if case.pixels else bijection.to(dtype)).eval()


def inputs(case: Case, shape: Shape, count: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return ``count`` inputs, and as a second item their contexts if the bijection takes one.

    Pixels include black, white and the two ends of the range.
    """
    generator = np.random.default_rng((count, *shape))
    if case.pixels:
        pixels = generator.choice([0, 0, 1, 77, 200, 254, 255, 255], (count, *shape))
        return [torch.from_numpy(pixels + 0.01 + 0.98 * generator.random((count, *shape))).to(dtype)]
    x = torch.from_numpy(generator.standard_normal((count, *shape)) * 1.5).to(dtype)
    context = case.make().context
    return [x, torch.from_numpy(generator.standard_normal((count, context))).to(dtype)] if context else [x]


@torch.no_grad()
def shapes_and_types_are_kept(case: Case, shape: Shape) -> None:
    for dtype in (torch.float32, torch.float64):
        bijection, (x, *context) = build(case, dtype), inputs(case, shape, dtype=dtype)
        z, log_det = bijection(x, *context)
        back, inverse_log_det = bijection.inverse(z, *context)
        _require(z[0].numel() == x[0].numel(), f"as many outputs as inputs, got {tuple(z.shape)} for {tuple(x.shape)}")
        _require(tuple(z.shape[1:]) == tuple(bijection.output_shape(_shape(x))), f"the output shape, got {z.shape}")
        _require(back.shape == x.shape, f"inputs of shape {tuple(x.shape)} back, got {tuple(back.shape)}")
        for tensor in (z, log_det, back, inverse_log_det):
            _require(tensor.dtype == dtype and tensor.device == x.device, f"{dtype} on {x.device}, got {tensor.dtype}")
            _require(tensor.isfinite().all(), "finite values")
        _require(log_det.shape == inverse_log_det.shape == (len(x),), f"a log-det a sample, got {tuple(log_det.shape)}")


@torch.no_grad()
def directions_are_inverses(case: Case, shape: Shape) -> None:
    """Check round trips from inputs and from latents, and that log-dets of the directions add up to 0."""
    bijection, (x, *context) = build(case), inputs(case, shape)
    z, log_det = bijection(x, *context)
    back, inverse_log_det = bijection.inverse(z, *context)
    assert_close(back, x, rtol=0, atol=1e-9)
    assert_close(inverse_log_det, -log_det, rtol=1e-11, atol=1e-7 if case.pixels else 1e-10)
    # The other way round, from latents that no forward call has made.
    x, *context = inputs(case, shape, count=5)
    other = bijection(x, *context)[0] * 0.9
    back, inverse_log_det = bijection.inverse(other, *context)
    again, log_det = bijection(back, *context)
    assert_close(again, other, rtol=0, atol=1e-8)
    assert_close(log_det, -inverse_log_det, rtol=0, atol=1e-7)


def log_det_is_that_of_the_jacobian(case: Case, shape: Shape) -> None:
    """Check the log-dets of both directions against the determinant of the whole Jacobian by autograd."""
    bijection, (x, *context) = build(case), inputs(case, shape, count=2)
    z, log_det = bijection(x, *context)
    assert_close(log_det.detach(), jacobian_log_det(bijection, x, *context), rtol=0, atol=1e-8)
    log_det = bijection.inverse(z.detach(), *context)[1].detach()
    expected = jacobian_log_det(bijection.inverse, z.detach(), *context)
    assert_close(log_det, expected, rtol=0, atol=1e-6 if case.pixels else 1e-8)


@torch.no_grad()
def log_det_depends_on_what_is_declared(case: Case, shape: Shape) -> None:
    """Check that log-dets are 0, equal or different for different inputs, as case and class say."""
    bijection, (x, *context) = build(case), inputs(case, shape)
    log_det = bijection(x, *context)[1]
    if case.volume_preserving:
        _require((log_det == 0).all(), f"log-det 0, got {log_det.tolist()}")
    else:
        _require(log_det.abs().max() > 1e-2, f"a log-det that is not 0, got {log_det.tolist()}")
    expected = 1 if bijection.constant_log_det else len(log_det)
    _require(len(set(log_det.tolist())) == expected, f"{expected} different log-dets, got {log_det.tolist()}")


@torch.no_grad()
def samples_are_independent(case: Case, shape: Shape) -> None:
    bijection, (x, *context) = build(case), inputs(case, shape)
    order = torch.tensor([2, 0, 1])
    for direction, batch in ((bijection.forward, x), (bijection.inverse, bijection(x, *context)[0])):
        together = direction(batch, *context)
        alone = [direction(*(part[n : n + 1] for part in (batch, *context))) for n in range(len(batch))]
        shuffled = direction(*(part[order] for part in (batch, *context)))
        for number, values in enumerate(together):
            assert_close(torch.cat([each[number] for each in alone]), values, rtol=1e-12, atol=1e-12)
            assert_close(shuffled[number], values[order], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def calls_have_no_side_effects(case: Case, shape: Shape) -> None:
    bijection, (x, *context) = build(case), inputs(case, shape)
    before = x.clone()
    first, second = bijection(x, *context), bijection(x, *context)
    _require(torch.equal(x, before), "an input that forward does not change")
    _require(torch.equal(first[0], second[0]) and torch.equal(first[1], second[1]), "equal outputs of equal calls")
    z = first[0].clone()
    bijection.inverse(z, *context)
    _require(torch.equal(z, first[0]), "an input that inverse does not change")


def parameters_get_gradients(case: Case) -> None:
    """Check that the input, the context and every parameter have a gradient that is finite and not 0."""
    bijection, parts = build(case).train(), [part.requires_grad_() for part in inputs(case, case.shapes[0])]
    z, log_det = bijection(*parts)
    loss = (z * torch.from_numpy(np.random.default_rng(0).standard_normal(tuple(z.shape)))).sum() + log_det.sum()
    if isinstance(bijection, SelfNormalizing):
        loss = loss + bijection.pop_reconstruction_error().sum()
    torch.autograd.backward(loss)
    for name, tensor in [*zip(("input", "context"), parts, strict=False), *bijection.named_parameters()]:
        gradient = tensor.grad
        _require(gradient is not None and gradient.isfinite().all() and gradient.any(), f"a gradient of {name}")


@torch.no_grad()
def training_maps_as_evaluation(case: Case) -> None:
    """Check that training mode has the outputs of evaluation mode, and its log-det unless the class omits it."""
    bijection, parts = build(case), inputs(case, case.shapes[0])
    expected, expected_log_det = bijection(*parts)
    z, log_det = bijection.train()(*parts)
    assert_close(z, expected, rtol=case.training_tolerance, atol=case.training_tolerance)
    if bijection.omits_log_det:
        _require((log_det == 0).all(), "log-det 0 in training mode, because the class omits it")
    else:
        assert_close(log_det, expected_log_det, rtol=case.training_tolerance, atol=0)


@torch.no_grad()
def learned_inverse_becomes_exact(case: Case) -> None:
    """Check that a learned inverse is exact after ``refresh_inverse``, where it can be, and not before."""
    bijection, (x, *context) = build(case), inputs(case, case.shapes[0])
    z = bijection(x, *context)[0]
    if isinstance(bijection, SelfNormalizing):
        _require((bijection.approximate_inverse(z) - x).abs().max() > 1e-2, "another matrix than the inverse")
        bijection.refresh_inverse(_shape(x))
    if case.exact_learned_inverse and not context:
        assert_close(bijection.approximate_inverse(z), x, rtol=0, atol=1e-9)


@torch.no_grad()
def state_is_stored(case: Case) -> None:
    bijection, parts = build(case), inputs(case, case.shapes[0])
    fresh = case.make()
    fresh = (fresh if case.pixels else fresh.double()).eval()
    fresh.load_state_dict(load(save({name: part.contiguous() for name, part in bijection.state_dict().items()})))
    same = [torch.equal(one, other) for one, other in zip(fresh(*parts), bijection(*parts), strict=True)]
    _require(all(same), "equal outputs of a layer with the stored weights")


def context_has_its_gradient(case: Case) -> None:
    bijection, (x, context) = build(case), inputs(case, case.shapes[0])
    context.requires_grad_()
    direction = torch.from_numpy(np.random.default_rng(1).standard_normal(tuple(context.shape)))

    def value(given: Tensor) -> Tensor:
        z, log_det = bijection(x, given)
        total: Tensor = z.sin().sum() + log_det.sum()
        return total

    (gradient,) = torch.autograd.grad(value(context), context)
    step = 1e-7 * direction
    with torch.no_grad():
        quotient = (value(context + step) - value(context - step)) / 2e-7
    _require(quotient.abs() > 1e-3, "outputs that depend on the context")
    assert_close((gradient * direction).sum(), quotient, rtol=1e-5, atol=1e-6)


def context_is_required(case: Case) -> None:
    bijection, (x, context) = build(case), inputs(case, case.shapes[0])
    for direction, batch in ((bijection.forward, x), (bijection.inverse, bijection(x, context)[0])):
        for given in ((), (context[:1],), (torch.cat([context, context], 1),)):
            _refuses(partial(direction, batch, *given), "a context of shape")


def inputs_are_refused(case: Case, direction: str, shape: Shape, text: str) -> None:
    """Check that ``forward`` or ``inverse`` refuses inputs of a whole shape, with a text in the error."""
    _refuses(lambda: getattr(build(case), direction)(torch.zeros(shape, dtype=torch.float64)), text)


SHAPE_CHECKS: tuple[Callable[[Case, Shape], None], ...] = (
    shapes_and_types_are_kept,
    directions_are_inverses,
    log_det_is_that_of_the_jacobian,
    log_det_depends_on_what_is_declared,
    samples_are_independent,
    calls_have_no_side_effects,
)
LAYER_CHECKS: tuple[Callable[[Case], None], ...] = (
    parameters_get_gradients,
    training_maps_as_evaluation,
    learned_inverse_becomes_exact,
    state_is_stored,
)
CONTEXT_CHECKS: tuple[Callable[[Case], None], ...] = (context_has_its_gradient, context_is_required)


@torch.no_grad()
def randomise(module: nn.Module, scale: float, seed: int = 0) -> None:
    """Move every parameter by normal noise, those that start at zero too, so that nothing is the identity."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_((scale * noise).to(parameter.dtype))


def mark_initialized(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, ActNorm):
            part.initialized.fill_(True)


def jacobian_log_det(function: Callable[..., Any], x: Tensor, *context: Tensor) -> Tensor:
    """Return log|det d function / dx| of each sample of ``x``, by the whole Jacobian of one sample at a time.

    Each row of a Jacobian is the gradient of a copy of the sample: all rows take one pass. If the function returns a
    tuple, its first item counts.
    """
    log_dets = []
    for number, sample in enumerate(x):
        copies = sample.detach().expand(sample.numel(), *sample.shape).clone().requires_grad_()
        with torch.enable_grad():
            z = function(copies, *(part[number].expand(len(copies), -1) for part in context))
            total = (z[0] if isinstance(z, tuple) else z).reshape(len(copies), -1).diagonal().sum()
        (jacobian,) = torch.autograd.grad(total, copies)
        log_dets.append(torch.linalg.slogdet(jacobian.flatten(1)).logabsdet)
    return torch.stack(log_dets)


def _shape(x: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = x.shape
    return channels, height, width


def _require(condition: bool | Tensor, expected: str) -> None:
    # No assert statement, because `python -O` leaves them out.
    if not condition:
        raise AssertionError(f"expected {expected}")


def _refuses(call: Callable[[], object], text: str) -> None:
    try:
        call()
    except ValueError as error:
        _require(re.search(text, str(error)) is not None, f"a ValueError with the text {text!r}, got {error}")
    else:
        raise AssertionError(f"expected a ValueError with the text {text!r}, got none")
