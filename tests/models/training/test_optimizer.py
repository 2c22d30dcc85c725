"""Optimisers, and the arithmetic of coupling networks."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from snf_client.schemas.training import TrainingConfig
from snf_models.bijections.conformance import randomise
from snf_models.bijections.coupling import CouplingNet
from snf_models.errors import SettingUnsupported
from snf_models.flows.architecture import GlowArchitecture
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow
from snf_models.pipeline.architecture_file import parse_architecture
from snf_models.pipeline.presets import find_preset
from snf_models.training.optimizer import (
    MOMENTUM,
    STEP,
    FusedAdam,
    Muon,
    coupling_kernels,
    lay_out_coupling_nets,
    make_optimizer,
    orthogonalize,
    training_precision,
)
from tests.models.helpers import glow

RATE = 0.01
SHAPE = 1, 8, 8


def small_flow() -> Flow:
    torch.manual_seed(0)
    flow = build_flow(GlowArchitecture(channels=1, height=8, width=8, levels=2, steps=2, hidden=16))
    randomise(flow, 0.1)
    return flow


def set_gradients(flow: Flow, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in flow.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def kernels(flow: Flow) -> dict[str, Tensor]:
    nets = {name: net for name, net in flow.named_modules() if isinstance(net, CouplingNet)}
    return {f"{name}.{part}.weight": getattr(net, part).weight for name, net in nets.items() for part in PARTS}


PARTS = ("first", "middle", "last")


def config(**settings: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"optimizer": "muon", "learning_rate": RATE, **settings})


@pytest.mark.parametrize("shape", [(5, 5), (3, 40), (40, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_steps_have_the_singular_vectors_of_the_momentum_and_singular_values_near_one(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    random = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(random, full_matrices=False)
    matrices = left @ torch.diag(torch.linspace(0.3, 1, min(shape), dtype=torch.float64)) @ right
    in_their_axes = left.mT @ orthogonalize(matrices.to(dtype)).double() @ right.mT
    singular = in_their_axes.diagonal(dim1=-2, dim2=-1)
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    assert (in_their_axes - torch.diag_embed(singular)).abs().max() < (0.1 if dtype == torch.bfloat16 else 1e-4)


def test_a_matrix_of_zeros_is_left_as_it_is() -> None:
    assert not orthogonalize(torch.zeros(2, 3, 4)).any()


def test_kernels_take_orthogonal_steps_and_all_else_those_of_adam() -> None:
    flow = small_flow()
    by_adam = copy.deepcopy(flow)
    optimizer = make_optimizer(flow, config(), "float32")
    adam = make_optimizer(by_adam, config(optimizer="adam"), "float32")
    assert isinstance(adam, torch.optim.Adam)
    momenta = {name: torch.zeros_like(kernel) for name, kernel in kernels(flow).items()}
    for step in range(3):
        before = {name: kernel.detach().clone() for name, kernel in kernels(flow).items()}
        for one in (flow, by_adam):
            set_gradients(one, step)
        optimizer.step()
        adam.step()
        for name, kernel in kernels(flow).items():
            assert kernel.grad is not None
            momenta[name] = MOMENTUM * momenta[name] + (1 - MOMENTUM) * kernel.grad
            ahead = (MOMENTUM * momenta[name] + (1 - MOMENTUM) * kernel.grad).flatten(1)
            left, _, right = torch.linalg.svd(ahead.double(), full_matrices=False)
            rows, columns = ahead.shape
            length = STEP * RATE * max(1.0, rows / columns) ** 0.5
            taken = (before[name] - kernel.detach()).flatten(1) / length
            in_its_axes = left.mT @ taken.double() @ right.mT
            singular = in_its_axes.diagonal()
            assert (in_its_axes - torch.diag(singular)).abs().max() < 1e-3
            assert singular.min() > 0.1, "small ones come less near to 1"
            assert singular.median() > 0.6
            assert singular.max() < 1.3
    others = dict(by_adam.named_parameters())
    for name, parameter in flow.named_parameters():
        if name not in momenta:
            assert torch.equal(parameter, others[name]), name


def optimized(flow: Flow) -> Muon:
    optimizer = make_optimizer(flow, config(), "float32")
    assert isinstance(optimizer, Muon)
    return optimizer


def test_a_factor_on_the_device_changes_no_step_that_is_taken() -> None:
    flow = small_flow()
    same = copy.deepcopy(flow)
    first, second = optimized(flow), optimized(same)
    second.found_inf = torch.tensor(0.0)
    for step in range(2):
        for one, optimizer in ((flow, first), (same, second)):
            set_gradients(one, step)
            optimizer.step()
    torch.testing.assert_close(same.state_dict(), flow.state_dict(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(second.state_dict()["state"], first.state_dict()["state"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("taken", [0, 1], ids=["first step", "later step"])
def test_a_step_that_is_not_finite_changes_nothing_and_the_next_one_is_taken(taken: int) -> None:
    flow = small_flow()
    optimizer = optimized(flow)
    for step in range(taken):
        set_gradients(flow, step)
        optimizer.step()
    weights = copy.deepcopy(flow.state_dict())
    moments = copy.deepcopy(optimizer.state_dict()["state"])
    set_gradients(flow, 9)
    for parameter in flow.parameters():
        assert parameter.grad is not None
        parameter.grad[0] = torch.nan
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert all(torch.equal(value, weights[name]) for name, value in flow.state_dict().items())
    for index, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            assert torch.equal(value, moments[index][name] if taken else torch.zeros_like(value)), (index, name)
    optimizer.found_inf = None
    set_gradients(flow, 10)
    optimizer.step()
    named = dict(flow.named_parameters())
    assert not any(torch.equal(parameter, weights[name]) for name, parameter in named.items())


def test_kernels_that_two_networks_share_take_one_step() -> None:
    flow = small_flow()
    first, second, *_ = (net for net in flow.modules() if isinstance(net, CouplingNet))
    second.middle = first.middle
    listed = coupling_kernels(flow)
    assert len({id(kernel) for kernel in listed}) == len(listed) == len(kernels(flow)) - 1


def test_a_flow_without_couplings_is_refused() -> None:
    with pytest.raises(
        SettingUnsupported, match="optimizer: expected a flow with couplings or splits for muon"
    ) as refused:
        find_preset("snf-conv-9l").architecture_for((1, 28, 28), config())
    assert refused.value.setting == "optimizer"
    find_preset("snf-glow-tiny").architecture_for((1, 28, 28), config())
    split = {"split": {"width": 4}, "steps": [{"type": "self-normalizing-1x1"}]}
    document = {"levels": [split, {"steps": [{"type": "actnorm"}]}]}
    parse_architecture({"name": "split", **document}).architecture_for((1, 28, 28), config())


def stored_otherwise() -> list[Tensor]:
    """Return a matrix stored by columns, and kernels with their channels last."""
    generator = torch.Generator().manual_seed(0)
    kernels = torch.randn(6, 5, 3, 3, generator=generator)
    return [torch.randn(7, 4, generator=generator).T, kernels.contiguous(memory_format=torch.channels_last)]


def test_steps_of_adam_are_those_of_its_formula_in_any_order_of_memory() -> None:
    parameters = [nn.Parameter(tensor) for tensor in stored_otherwise()]
    optimizer = FusedAdam(parameters, RATE)
    expected = [parameter.detach().double().contiguous() for parameter in parameters]
    first, second = ([torch.zeros_like(each) for each in expected] for _ in range(2))
    for step in range(1, 4):
        for index, parameter in enumerate(parameters):
            gradient = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
            first[index] = 0.9 * first[index] + 0.1 * gradient
            second[index] = 0.999 * second[index] + 0.001 * gradient.square()
            root = (second[index] / (1 - 0.999**step)).sqrt()
            expected[index] -= RATE * first[index] / (1 - 0.9**step) / (root + 1e-8)
        optimizer.step()
    for parameter, tensor, wanted in zip(parameters, stored_otherwise(), expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), wanted, rtol=0, atol=1e-6)
        moments = optimizer.state[parameter]["exp_avg"]
        assert moments.shape == tensor.shape
        assert moments.stride() == parameter.stride() == tensor.stride()


def test_a_step_of_adam_copies_no_gradient() -> None:
    parameters = [nn.Parameter(tensor) for tensor in stored_otherwise()]
    optimizer = FusedAdam(parameters, RATE)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        optimizer.step()
    copied = [event.input_shapes for event in profiled.events() if event.name == "aten::clone"]
    assert copied == []


@pytest.mark.parametrize(
    ("capability", "settings", "expected"),
    [
        ((9, 0), {}, "bfloat16"),
        ((7, 5), {}, "float32"),
        ((7, 5), {"precision": "bfloat16"}, "bfloat16"),
        ((9, 0), {"precision": "float32"}, "float32"),
        ((9, 0), {"recompute": True}, "float32"),
        (None, {}, "bfloat16"),
    ],
)
def test_on_cuda_the_coupling_nets_compute_in_bfloat16_where_the_gpu_can(
    capability: tuple[int, int] | None, settings: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or where there is none, as in a service that estimates what another machine will do."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert training_precision(TrainingConfig.model_validate(settings), "cuda:0") == expected


def test_the_layout_of_the_coupling_nets_is_that_of_their_device() -> None:
    flow = glow(16)
    for precision, device, last in [("float32", "cuda", 0), ("bfloat16", "cuda", 1), ("float32", "cpu", 1)]:
        lay_out_coupling_nets(flow, precision, device)
        weights = [module.first.weight for module in flow.modules() if isinstance(module, CouplingNet)]
        layout = torch.channels_last if last else torch.contiguous_format
        assert all(weight.is_contiguous(memory_format=layout) for weight in weights)
