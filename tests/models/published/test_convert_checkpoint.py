"""Flows from published checkpoints: log-likelihoods of independent layers, and refusals of other parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.bijections.convolution import ExactConv, SelfNormalizingConv
from models.published.convert_checkpoint import parameters_of, published_flow
from tests.models.published.layers import Published, convolutional, fully_connected, glow

SIDE = 8
SHAPE = (1, SIDE, SIDE)
FLOWS: dict[str, Callable[[], Published]] = {
    "glow": glow,
    "convolutional": lambda: convolutional(SIDE),
    "fully-connected": lambda: fully_connected(SIDE),
}


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 256 * torch.rand(5, *SHAPE, generator=generator, dtype=torch.float64)


@pytest.fixture(params=FLOWS)
def published(request: pytest.FixtureRequest) -> Published:
    torch.manual_seed(0)
    return FLOWS[request.param]()


@pytest.mark.parametrize("exact", [False, True])
def test_the_log_likelihoods_are_those_of_independent_layers(
    published: Published, images: Tensor, *, exact: bool
) -> None:
    flow = published_flow(published.state_dict(), SHAPE, exact=exact).double()
    with torch.no_grad():
        torch.testing.assert_close(
            flow(images).log_likelihood, published.double().log_likelihood(images), rtol=1e-6, atol=0
        )


def test_learned_inverses_are_kept_unless_the_training_was_exact() -> None:
    torch.manual_seed(0)
    state = convolutional(SIDE).state_dict()
    layer = published_flow(state, SHAPE).level_list()[0].steps[0]
    assert isinstance(layer, SelfNormalizingConv)
    assert torch.equal(layer.inverse_weight, state["4.weight_inv"])
    assert type(published_flow(state, SHAPE, exact=True).level_list()[0].steps[0]) is ExactConv


def test_parameters_are_found_beside_other_entries_and_below_the_name_of_a_wrapper(images: Tensor) -> None:
    torch.manual_seed(0)
    state = glow().state_dict()
    whole = {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {"param_groups": []}}
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    flows = [published_flow(parameters_of(given), SHAPE).double() for given in (whole, wrapped)]
    with torch.no_grad():
        first, second = (flow(images).log_likelihood for flow in flows)
    assert torch.equal(first, second)


def changed(**changes: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    state: dict[str, Any] = {**glow().state_dict(), **changes}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"extra": torch.zeros(1)}, "expected the parameters of numbered modules, such as '4.weight_fwd', got 'extra'"),
        (
            {"1.scale": torch.ones(1)},
            "module 1: expected the preprocessing of the published experiments, a shift and a ",
        ),
        (
            {"1.translation": None, "1.scale": None, "2.translation": None, "2.scale": None},
            "module 1: expected 'scale', 'translation', as in the preprocessing of the published experiments, got none",
        ),
        (
            {"3.weight_fwd": torch.zeros(1, 1, 3, 3)},
            "module 3: expected no parameters, as in the preprocessing of the published experiments, got 'weight_fwd'",
        ),
        ({"0.scale": torch.ones(1)}, "module 0: expected no parameters, as in the preprocessing"),
        (
            {"wrapper.6.weight_fwd": torch.zeros(4, 4, 1, 1)},
            "expected the modules of one flow, got those below '', 'wr",
        ),
        ({"06.weight_fwd": torch.zeros(4, 4, 1, 1)}, "expected the parameters of numbered modules"),
        ({"6.weight_fwd": torch.tensor(1.0)}, "module 6: expected a weight_fwd of 2 or 4 sides, got shape ()"),
        ({"7.net.0.weight": torch.zeros(3)}, "module 7: expected a net.0.weight of 4 sides, got shape (3,)"),
        ({"7.net.2.weight": torch.tensor(1.0)}, "module 7: expected a net.2.weight of 4 sides, got shape ()"),
        ({"16.\x1b[2J": torch.zeros(1)}, "a coupling or a split, got '\\x1b[2J'"),
        ({"5.log_scale": torch.zeros(12)}, "module 5: expected 1 channels, or 4 after a squeeze, got 12"),
        ({"5.translation": torch.zeros(5)}, "module 5: expected a shift of shape (4,), got (5,)"),
        ({"6.weight_inv": None}, "module 6: the parameter 'weight_inv' is missing"),
        ({"6.weight_fwd": torch.zeros(4, 4, 2, 2)}, "module 6: expected a kernel with odd sides, got 2x2"),
        ({"7.net.4.bias": torch.zeros(3)}, "module 7: expected 4 outputs of net.4, got (4, 3, 4)"),
        ({"7.net.1.weight": torch.zeros(3)}, "module 7: expected no parameters but those of the layer, got 'net.1.wei"),
        ({"11.W": torch.zeros(4, 4)}, "module 11: expected no parameters but"),
        (
            {"16.unknown": torch.zeros(4, 4)},
            "module 16: expected the parameters of an activation normalisation, a self-",
        ),
        ({"900000.W": torch.zeros(8, 8)}, "expected modules of numbers up to 2048, got 900000"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_other_parameters_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        published_flow(changed(**changes), SHAPE)


def test_modules_before_a_first_fully_connected_layer_are_refused() -> None:
    state = fully_connected(SIDE).state_dict()
    moved = {re.sub("^[46]", lambda match: str(int(match[0]) + 1), name): value for name, value in state.items()}
    with pytest.raises(ValueError, match="module 5: expected a layer directly after module 3, the logit, got 1 mod"):
        published_flow(moved, SHAPE)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="module 5: expected 3 channels, or 12 after a squeeze, got 4"):
        published_flow(changed(), (3, SIDE, SIDE))
    with pytest.raises(ValueError, match="module 5: expected 1 channels"):
        published_flow(changed(), (1, 7, 7))


@pytest.mark.parametrize(
    ("loaded", "reason"),
    [
        ([], "expected a state dictionary, alone or as model_state_dict or state_dict, got list"),
        ({"4.W": 3}, "expected dense tensors by name, got '4.W' of int"),
        ({"4.W": torch.eye(2).to_sparse()}, "expected dense tensors by name, got '4.W' of Tensor"),
        ({"4.W": torch.full((2, 2), 1e300, dtype=torch.float64)}, "expected finite numbers in '4.W', got others"),
        ({"4.W": torch.eye(2, dtype=torch.complex64)}, "expected floating-point numbers in '4.W', got torch.complex64"),
        ({"4.W": torch.eye(2, dtype=torch.int64)}, "expected floating-point numbers in '4.W', got torch.int64"),
        ({"4.W": torch.full((2, 2), torch.nan)}, "expected finite numbers in '4.W', got others"),
    ],
)
def test_what_is_no_state_dictionary_is_refused(loaded: object, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parameters_of(loaded)
