"""Conversion of checkpoints from the published code of Keller et al. to flows of this package."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from models.bijections.actnorm import ActNorm
from models.bijections.base import Bijection, Shape
from models.bijections.conv1x1 import ExactConv1x1, SelfNormalizingConv1x1
from models.bijections.convolution import ExactConv, SelfNormalizingConv
from models.bijections.coupling import AffineCoupling
from models.bijections.dense import ExactDense, SelfNormalizingDense
from models.bijections.pixels import LogitPixels
from models.bijections.smooth_leaky_relu import SmoothLeakyReLU
from models.bijections.spline import SplineActivation
from models.flows.flow import Flow, Level
from models.flows.level_specs import MAX_LAYERS
from models.flows.no_init import NoRandomness
from snf_runtime.scoring.pixel_transforms import PIXEL_RANGE

Tensors = Mapping[str, Tensor]

LOGIT = 3
"""Number of the last preprocessing module: noise, division by 256, margin, logit."""
PREPROCESSING = frozenset({"translation", "scale"})
"""Parameters of the division and of the margin, the modules 1 and 2."""
NOISE = {0: frozenset({"distribution.empty"}), LOGIT: frozenset[str]()}
"""Parameters that the modules of the noise and of the logit may have; that of the noise has no meaning."""
SPLINE = ("unnormalized_widths", "unnormalized_heights", "unnormalized_derivatives")
NET = (0, 2, 4)
"""Numbers of the convolutions in the network of a coupling; the ReLUs between them have no parameters."""
WHOLE = ("model_state_dict", "state_dict")
"""Keys of the parameters in a checkpoint that holds more, such as the state of the optimiser."""


def parameters_of(loaded: object) -> dict[str, Tensor]:
    """Return a dict of a flow's parameter tensors by name, from the loaded content of a checkpoint file.

    The content is a state dictionary, alone or beside other entries.

    Raises:
        ValueError: It holds no state dictionary of tensors whose values are finite in float32, the type of a flow.
    """
    for key in WHOLE:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise ValueError(f"expected a state dictionary, alone or as {' or '.join(WHOLE)}, got {type(loaded).__name__}")
    parameters = {}
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ValueError(f"expected dense tensors by name, got {str(key)[:64]!r} of {type(value).__name__}")
        whole = key.endswith(".initialized") and value.dtype in (torch.bool, torch.uint8, torch.int32, torch.int64)
        if not whole and not value.is_floating_point():
            raise ValueError(f"expected floating-point numbers in {key[:64]!r}, got {value.dtype}")
        parameters[key] = value if whole else value.float()
        if not parameters[key].isfinite().all():
            raise ValueError(f"expected finite numbers in {key[:64]!r}, got others")
    return parameters


def published_flow(parameters: Tensors, image_shape: Shape, *, exact: bool = False) -> Flow:
    """Build a flow from the weights in a checkpoint written by the published code of Keller et al.

    The flow is in evaluation mode.

    The modules of that code are numbered. Modules without parameters leave gaps in the numbers: a squeeze where the
    channels become four times as many, and smooth leaky ReLUs of slope 0.3 elsewhere. Its couplings interleave scales
    and shifts, which are halves of the channels here.

    Args:
        parameters: The parameters, by the name of their module.
        image_shape: Channels, height and width of the images.
        exact: Whether the layers were trained by exact gradients. Then the learned inverses beside them, which were
            not trained, are left out.

    Raises:
        ValueError: The parameters are of other layers than those of the published fully connected, convolutional and
            Glow flows, or do not suit the images.
    """
    modules = _by_number(parameters)
    pixels = _read_pixels(modules)
    if max(modules, default=0) > MAX_LAYERS:
        raise ValueError(f"expected modules of numbers up to {MAX_LAYERS}, got {max(modules)}")
    reader = _Reader(image_shape, exact)
    with NoRandomness():
        for number in sorted(modules):
            try:
                reader.read(number, modules[number])
            except (KeyError, IndexError, TypeError, ValueError) as error:
                reason = f"the parameter {error} is missing" if isinstance(error, KeyError) else error
                raise ValueError(f"module {number}: {reason}") from error
    return Flow(pixels, reader.levels()).eval()


def _by_number(parameters: Tensors) -> dict[int, dict[str, Tensor]]:
    """Return the parameters of each module by their name in it.

    Raises:
        ValueError: A parameter is of no numbered module, or the modules are those of several flows.
    """
    modules: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
    wrappers = set()
    for key, tensor in parameters.items():
        # A wrapper of the whole flow puts its name before all numbers.
        match = re.fullmatch(r"((?:[A-Za-z_]+\.)*)(0|[1-9][0-9]{0,5})\.(.+)", key)
        if match is None:
            raise ValueError(f"expected the parameters of numbered modules, such as '4.weight_fwd', got {key[:64]!r}")
        wrappers.add(match[1])
        modules[int(match[2])][match[3]] = tensor
    if len(wrappers) > 1:
        raise ValueError(f"expected the modules of one flow, got those below {_names(wrappers)}")
    return modules


def _read_pixels(modules: dict[int, dict[str, Tensor]]) -> LogitPixels:
    """Remove the preprocessing modules from ``modules``, and return the transform that all of them are together.

    Raises:
        ValueError: They are not those of the published experiments: noise, division, margin and logit.
    """
    pixels = LogitPixels()
    margin = pixels.alpha
    wanted = {1: (0.0, PIXEL_RANGE), 2: (-margin, 1 / (1 - 2 * margin))}
    for number in range(LOGIT + 1):
        given = modules.pop(number, {})
        names, optional = (PREPROCESSING, frozenset[str]()) if number in wanted else (frozenset[str](), NOISE[number])
        if not names <= given.keys() <= names | optional:
            raise ValueError(
                f"module {number}: expected {_names(names) if names else 'no parameters'}, as in the preprocessing of "
                f"the published experiments, got {_names(given) if given else 'none'}"
            )
        values = [float(given[name].sum()) for name in sorted(names, reverse=True)]
        if not torch.allclose(torch.tensor(values), torch.tensor(wanted.get(number, ())), atol=1e-9):
            raise ValueError(
                f"module {number}: expected the preprocessing of the published experiments, a shift and a scale of "
                f"{wanted[number]}, got {tuple(values)}"
            )
    return pixels


class _Reader:
    """Reads one module after the other into levels.

    Args:
        image_shape: Channels, height and width of the images.
        exact: Whether learned inverses are left out.
    """

    def __init__(self, image_shape: Shape, exact: bool) -> None:
        self._shape = image_shape
        self._exact = exact
        self._last = LOGIT
        self._levels: list[Level] = []
        self._steps: list[Bijection] = []
        self._squeeze = False

    def levels(self) -> list[Level]:
        """Return the levels, after the last module. Raises ``ValueError`` if there is no layer after the last split."""
        if not self._steps:
            raise ValueError("expected layers after the preprocessing and after each split, got none")
        self._close(None)
        return self._levels

    def read(self, number: int, given: Tensors) -> None:
        """Add the layer of a module, after the modules without parameters before it.

        Raises:
            ValueError: The parameters are of another layer, or do not suit its images.
            KeyError: A parameter is missing.
        """
        if "log_scale" in given:
            self._fill_gap(number, given["log_scale"].numel())
            self._steps.append(self._actnorm(given))
        elif "weight_fwd" in given:
            self._fill_gap(number, len(_sides(given, "weight_fwd", 2, 4)), linear=True)
            self._steps.append(self._linear(given))
        elif given.keys() == {"W"}:
            self._fill_gap(number, len(_sides(given, "W", 2)))
            layer = ExactConv1x1(self._shape[0])
            _fill(layer, weight=given["W"], bias=torch.zeros_like(layer.bias))
            self._steps.append(layer)
        elif SPLINE[0] in given:
            self._fill_gap(number, _sides(given, SPLINE[0], 4, 5).shape[-4])
            self._steps.append(self._spline(given))
        elif "net.0.weight" in given:
            self._fill_gap(number, 2 * _sides(given, "net.0.weight", 4).shape[1])
            self._steps.append(self._coupling(given, "net"))
        elif "transform.net.0.weight" in given:
            self._fill_gap(number, 2 * _sides(given, "transform.net.0.weight", 4).shape[1])
            self._close(self._coupling(given, "transform.net"))
        else:
            raise ValueError(
                "expected the parameters of an activation normalisation, a self-normalizing or 1x1 convolution, a "
                f"fully connected layer, a spline, a coupling or a split, got {_names(given)}"
            )
        self._last = number

    def _fill_gap(self, number: int, channels: int, *, linear: bool = False) -> None:
        """Add the modules between the last one and this one, which have no parameters.

        Args:
            number: Number of this module.
            channels: Channels that this module has; all values of an image for a fully connected layer.
            linear: Whether this module may be a fully connected layer.
        """
        gap, (own, height, width) = number - self._last - 1, self._shape
        squeezed = channels == 4 * own and gap > 0 and height % 2 == width % 2 == 0
        dense = linear and channels == own * height * width
        if not squeezed and not dense and channels != own:
            raise ValueError(f"expected {own} channels, or {4 * own} after a squeeze, got {channels}")
        activations = gap - squeezed
        if self._levels or self._steps:
            self._steps += [SmoothLeakyReLU() for _ in range(activations)]
        elif activations:
            raise ValueError(f"expected a layer directly after module {LOGIT}, the logit, got {gap} modules between")
        if squeezed:
            if self._steps or self._squeeze:
                self._close(None)
            self._squeeze, self._shape = True, (channels, height // 2, width // 2)

    def _close(self, prior: AffineCoupling | None) -> None:
        self._levels.append(Level(self._steps, prior, squeeze=self._squeeze))
        self._steps, self._squeeze = [], False
        if prior is not None:
            self._shape = (prior.kept, *self._shape[1:])

    def _actnorm(self, given: Tensors) -> ActNorm:
        layer = ActNorm(self._shape[0])
        _only(given, "translation", "log_scale", "initialized")
        _fill(layer, shift=given["translation"], log_scale=given["log_scale"])
        if not given.get("initialized", torch.tensor(True)).all():
            raise ValueError("expected an activation normalisation with its scales, got one that saw no images")
        layer.initialized.fill_(True)
        return layer

    def _linear(self, given: Tensors) -> Bijection:
        _only(given, "weight_fwd", "weight_inv", "bias_fwd")
        channels, height, width = self._shape
        weight, dimensions = given["weight_fwd"], channels * height * width
        kernel = (weight.shape[2], weight.shape[3]) if weight.dim() == 4 else (1, 1)
        makers: tuple[Callable[[], ExactDense | ExactConv | ExactConv1x1], ...]
        if len(weight) == dimensions != channels:
            makers = (lambda: SelfNormalizingDense(dimensions), lambda: ExactDense(dimensions))
        elif kernel == (1, 1):
            makers = (lambda: SelfNormalizingConv1x1(channels), lambda: ExactConv1x1(channels))
        else:
            makers = (lambda: SelfNormalizingConv(channels, kernel), lambda: ExactConv(channels, kernel))
        layer = makers[self._exact]()
        _fill(layer, weight=weight, bias=given.get("bias_fwd", torch.zeros_like(layer.bias)))
        if not self._exact:
            _fill(layer, inverse_weight=given["weight_inv"])
        return layer

    def _spline(self, given: Tensors) -> SplineActivation:
        _only(given, *SPLINE)
        layer = SplineActivation(self._shape, bins=given[SPLINE[0]].shape[-1])
        _fill(layer, **dict(zip(("widths", "heights", "slopes"), (given[name] for name in SPLINE), strict=True)))
        return layer

    def _coupling(self, given: Tensors, prefix: str) -> AffineCoupling:
        channels = self._shape[0]
        layer = AffineCoupling(channels, given[f"{prefix}.{NET[0]}.weight"].shape[0])
        # There, even channels are scales and odd ones shifts.
        halves = torch.arange(channels).view(-1, 2).T.flatten()
        rest = dict(given)
        for number, convolution in zip(NET, (layer.net.first, layer.net.middle, layer.net.last), strict=True):
            weight = _sides(rest, f"{prefix}.{number}.weight", 4)
            del rest[f"{prefix}.{number}.weight"]
            bias = rest.pop(f"{prefix}.{number}.bias", torch.zeros(len(weight)))
            if convolution is layer.net.last:
                gain = rest.pop(f"{prefix}.{number}.logs", torch.zeros(len(weight))).flatten()
                outputs = len(weight), bias.numel(), len(gain)
                if outputs != (channels, channels, channels):
                    raise ValueError(f"expected {channels} outputs of {prefix}.{number}, got {outputs}")
                weight, bias, gain = weight[halves], bias.flatten()[halves], gain[halves]
                _fill(layer.net, log_gain=gain)
            _fill(convolution, weight=weight, bias=bias)
        _only(rest)
        return layer


def _only(given: Tensors, *names: str) -> None:
    if unknown := sorted(given.keys() - set(names)):
        known = ", ".join(names) or "those of the layer"
        raise ValueError(f"expected no parameters but {known}, got {unknown[0][:64]!r}")


def _names(given: Iterable[str]) -> str:
    """Return names for a message; those of a file may hold control codes."""
    return ", ".join(map(repr, sorted(given)))[:200]


def _sides(given: Tensors, name: str, *numbers: int) -> Tensor:
    """Return a parameter, which has one of these numbers of sides."""
    tensor = given[name]
    if tensor.dim() not in numbers:
        expected = " or ".join(map(str, numbers))
        raise ValueError(f"expected a {name} of {expected} sides, got shape {tuple(tensor.shape)}")
    return tensor


@torch.no_grad()
def _fill(layer: torch.nn.Module, **values: Tensor) -> None:
    """Set parameters of a layer, by name. Sides of length 1 may be left out or be too many."""
    for name, value in values.items():
        parameter = layer.get_parameter(name)
        if [side for side in value.shape if side != 1] != [side for side in parameter.shape if side != 1]:
            raise ValueError(f"expected a {name} of shape {tuple(parameter.shape)}, got {tuple(value.shape)}")
        parameter.copy_(value.reshape(parameter.shape))
