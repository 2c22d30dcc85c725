"""Operations and memory of each part of a flow's training, counted by running its layers on the meta device."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial, reduce
from operator import add

import torch

from models.bijections.base import Bijection, SelfNormalizing, Shape
from models.bijections.coupling import CouplingNet
from models.bijections.frozen import FrozenStep, Inverse, has_learned_inverse
from models.bijections.matrix_inverse import MatrixInverse
from models.flows.architecture import PixelArchitecture
from models.flows.build import build_flow
from models.flows.flow import Flow, walk
from models.flows.layers.spec import LayerSpec
from models.flows.no_init import NoRandomness
from models.training.config import TrainingConfig
from models.training.cost.operation_counter import Count, Work, count, saved_bytes
from models.training.objective import SelfNormalizingObjective, operator_norm
from models.training.optimizer import coupling_kernels, orthogonalize

FROZEN_BATCH = 4
"""Images that a frozen flow computes at once; its work grows with their number."""
NORM_ITERATIONS = 100
"""Power iterations of each of the two operator norms that validation finds for a learned inverse."""
QUALITY_PROBES = 64
"""Images of noise by which the error of a learned inverse is measured."""

UPDATE_NUMBERS = 13
"""Numbers read and written a weight: 3 by clipping, 7 by Adam, 3 by the average."""


@dataclass(frozen=True)
class FlowWork:
    """Operations and bytes that a flow needs in each part of a training run."""

    step: Work  # forward and backward pass of one batch; of a whole flow with optimiser and weight average
    initialization: Work
    constant_log_det: Work  # all data-independent log-dets, once
    quality: Work  # measuring the learned inverses, once
    refresh: Work  # setting the learned inverses to the exact ones, once
    freezing: Work  # without log-dets
    preview_freezing: Work
    scoring: Work  # of ``FROZEN_BATCH`` images
    sampling: Work  # the exact inverse of ``FROZEN_BATCH`` latents
    preview: Work  # the same by the learned inverses, if there are any
    parameters: int
    saved_bytes: int  # of one batch, kept for the backward pass
    passing_bytes: int  # most that one layer holds beyond that in the backward pass
    initialization_bytes: int  # most that a layer holds
    frozen_bytes: int

    def __add__(self, other: FlowWork) -> FlowWork:
        together = {}
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            together[name] = max(mine, theirs) if name in {"passing_bytes", "initialization_bytes"} else mine + theirs
        return FlowWork(**together)

    def __mul__(self, layers: int) -> FlowWork:
        maxima = {"passing_bytes", "initialization_bytes"}
        return FlowWork(**{name: mine if name in maxima else mine * layers for name, mine in vars(self).items()})


def flow_work(
    architecture: PixelArchitecture, config: TrainingConfig, images: int, initialization_images: int, precision: str
) -> FlowWork:
    """Count the work of each part, cached; ``images`` a step."""
    relevant = TrainingConfig(
        symmetric_reconstruction=config.symmetric_reconstruction,
        noise_reconstruction=config.noise_reconstruction,
        gradient=config.gradient,
        corrected_directions=config.corrected_directions,
        recompute=config.recompute,
        optimizer=config.optimizer,
    )
    return _flow_work(architecture, relevant, images, initialization_images, precision)


@lru_cache(maxsize=128)
def _flow_work(
    architecture: PixelArchitecture, config: TrainingConfig, images: int, initialization_images: int, precision: str
) -> FlowWork:
    flow = _build(architecture)
    with torch.device("meta"):
        # Sets what the layers do in training.
        SelfNormalizingObjective(flow, architecture.image_shape, config)
    kinds = _kinds(flow, architecture)
    works = [
        _kind_work(kind, config, images, initialization_images, precision) * layers for kind, layers in kinds.items()
    ]
    total = reduce(add, works)
    if config.optimizer == "muon":
        total = replace(total, step=total.step + _orthogonalization(kinds, precision))
    return _with_the_rest(total, flow, architecture.image_shape, images, initialization_images)


def _build(architecture: PixelArchitecture) -> Flow:
    """Build a flow without values; layers that are described alike are one object."""
    layers: dict[tuple[object, ...], Bijection] = {}

    def build_layer(spec: LayerSpec, shape: Shape) -> Bijection:
        described = type(spec), spec.model_dump_json(), shape
        if described not in layers:
            layers[described] = spec.build(shape)
        return layers[described]

    with torch.device("meta"), NoRandomness():
        return build_flow(architecture, build_layer)


@dataclass(frozen=True)
class _Kind:
    """Layers that cost the same: one class, the same settings, and weights and images of the same shapes."""

    layer_type: type[Bijection]
    settings: str
    weights: tuple[tuple[str, torch.Size], ...]
    shape: Shape
    layer: Bijection = field(compare=False)


def _kinds(flow: Flow, architecture: PixelArchitecture) -> Counter[_Kind]:
    """Count the layers of each kind; the weights of squeezes and priors show all their settings."""
    kinds: dict[int, _Kind] = {}
    numbers = Counter[_Kind]()

    def add_layer(layer: Bijection, shape: Shape, spec: LayerSpec | None = None) -> None:
        if id(layer) not in kinds:
            weights = tuple((name, tensor.shape) for name, tensor in layer.state_dict(keep_vars=True).items())
            settings = spec.model_dump_json() if spec is not None else ""
            kinds[id(layer)] = _Kind(type(layer), settings, weights, shape, layer)
        numbers[kinds[id(layer)]] += 1

    described = architecture.layered().shaped()
    for level_spec, (level, steps, shape) in zip(described, walk(flow, architecture.image_shape), strict=True):
        specs = [None] * (level.squeeze is not None) + level_spec.layers
        for (_, layer, at), spec in zip(steps, specs, strict=True):
            add_layer(layer, at, spec)
        if level.prior is not None:
            add_layer(level.prior, shape)
    return numbers


@lru_cache(maxsize=1024)
def _kind_work(
    kind: _Kind, config: TrainingConfig, images: int, initialization_images: int, precision: str
) -> FlowWork:
    return _layer_work(kind.layer, kind.shape, config, images, initialization_images, precision)


def _layer_work(
    layer: Bijection,
    shape: Shape,
    config: TrainingConfig,
    images: int,
    initialization_images: int,
    precision: str,
) -> FlowWork:
    layer.train()
    with saved_bytes(layer) as sizes:
        step = count(lambda: _step(layer, torch.zeros(images, *shape, requires_grad=True), config))
    if config.corrected_directions and isinstance(layer, MatrixInverse):
        directions = torch.zeros(len(layer.weight), min(config.corrected_directions, len(layer.weight)))
        step = replace(step, work=step.work + count(lambda: layer.correct_inverse(directions)).work)
    recomputed = config.recompute and layer.cheap_inverse
    again = count(lambda: _recompute(layer, shape, images)).work if recomputed else Work()
    layer.eval().requires_grad_(False)
    with torch.no_grad():
        initialization = count(lambda: layer(torch.zeros(initialization_images, *shape)))
        log_det = count(lambda: layer.constant_log_det_at(shape))
        quality, refresh = _inverse_work(layer, shape)
        latents = torch.zeros(FROZEN_BATCH, *layer.output_shape(shape), dtype=torch.float64, device="meta")

        def frozen_for(inverse: Inverse) -> FrozenStep:
            made = layer.freeze(shape)
            made.inverse(latents[:1], inverse)  # the first one may factorise the layer's matrix
            return made

        freezing = preview_freezing = count(lambda: frozen_for("exact"))
        frozen = freezing.outcome
        scoring = count(lambda: frozen.forward(torch.zeros(FROZEN_BATCH, *shape, dtype=torch.float64)))
        sampling = preview = count(lambda: frozen.inverse(latents, "exact"))
        if has_learned_inverse(frozen):  # a layer without one draws previews by its exact inverse
            preview_freezing = count(lambda: frozen_for("learned"))
            preview = count(lambda: frozen.inverse(latents, "learned"))
    in_networks = precision == "bfloat16" and any(isinstance(module, CouplingNet) for module in layer.modules())
    saved = 0 if recomputed else sum(sizes)
    return FlowWork(
        step=_in_low_precision(step.work) if in_networks else step.work + again,
        initialization=initialization.work,
        constant_log_det=log_det.work,
        quality=quality,
        refresh=refresh,
        freezing=freezing.work,
        preview_freezing=preview_freezing.work,
        scoring=scoring.work,
        sampling=sampling.work,
        preview=preview.work,
        parameters=sum(parameter.numel() for parameter in layer.parameters()),
        saved_bytes=saved,
        passing_bytes=max(0, step.peak_bytes - saved),
        initialization_bytes=initialization.peak_bytes,
        frozen_bytes=freezing.peak_bytes,
    )


def _step(layer: Bijection, x: torch.Tensor, config: TrainingConfig) -> None:
    z, log_det = layer(x)
    loss = z.sum() + log_det.sum()
    if isinstance(layer, SelfNormalizing):
        loss = loss + layer.pop_reconstruction_error().sum()
        if config.noise_reconstruction:
            noise = torch.zeros_like(x[:1])
            loss = loss + (noise - layer.reconstruct(noise)).square().sum()
    torch.autograd.backward(loss)


@torch.no_grad()
def _recompute(layer: Bijection, shape: Shape, images: int) -> None:
    """Invert a layer and run it once more, as invertible back-propagation does beside the step itself."""
    layer.inverse(layer(torch.zeros(images, *shape))[0])
    if isinstance(layer, SelfNormalizing):
        layer.pop_reconstruction_error()


def _inverse_work(layer: Bijection, shape: Shape) -> tuple[Work, Work]:
    """Return the work of measuring a learned inverse, and of replacing it by the exact inverse."""
    if not isinstance(layer, SelfNormalizing):
        return Work(), Work()

    def norms() -> None:
        noise = torch.zeros(1, *shape)
        operator_norm(lambda x: x - layer.reconstruct(x), noise, iterations=1)
        operator_norm(layer.apply_inverse_weight, noise, iterations=1)

    error = count(lambda: layer.reconstruct(torch.zeros(QUALITY_PROBES, *shape)))
    return error.work + count(norms).work * NORM_ITERATIONS, count(lambda: layer.refresh_inverse(shape)).work


@torch.no_grad()
def _orthogonalization(kinds: Counter[_Kind], precision: str) -> Work:
    """Return the work of Muon's products, in the precision of the networks."""
    work, numbers = Work(), Counter[torch.Size]()
    for kind, layers in kinds.items():
        for kernel in coupling_kernels(kind.layer):
            numbers[kernel.flatten(1).shape] += layers
    for (rows, columns), number in numbers.items():
        work += count(partial(orthogonalize, torch.zeros(number, rows, columns, device="meta"))).work
    return _in_low_precision(work) if precision == "bfloat16" else work


def _with_the_rest(layers: FlowWork, flow: Flow, shape: Shape, images: int, initialization_images: int) -> FlowWork:
    """Add the pixel transform, the optimiser and the weight average."""

    def pixels(batch: int) -> Count[object]:
        return count(lambda: flow.pixels(torch.zeros(batch, *shape, dtype=torch.float64)))

    # The fused optimiser does not run on the meta device.
    update = Work(bytes=UPDATE_NUMBERS * 4 * layers.parameters)
    with torch.no_grad():
        transformed, first = pixels(images), pixels(initialization_images)
        return replace(
            layers,
            step=layers.step + transformed.work + update,
            initialization=layers.initialization + first.work,
            scoring=layers.scoring + pixels(FROZEN_BATCH).work,
            passing_bytes=max(layers.passing_bytes, transformed.peak_bytes - layers.saved_bytes),
            initialization_bytes=max(layers.initialization_bytes, first.peak_bytes),
        )


def _in_low_precision(work: Work) -> Work:
    return replace(work, flops=0.0, low_precision_flops=work.flops)
