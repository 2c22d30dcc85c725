"""Muon: orthogonal steps with the kernels of coupling networks, Adam's with all other parameters."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from models.bijections.coupling import CouplingNet
from models.errors import SettingUnsupported
from models.flows.architecture import GlowArchitecture
from models.flows.build import build_flow
from models.flows.flow import Flow
from models.training.config import TrainingConfig
from models.training.optimizer import MOMENTUM, STEP, Muon, make_optimizer, orthogonalize
from models.training.presets import find_preset
from tests.models.helpers import randomise

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
    matrices = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalize(matrices.to(dtype)).double()
    left, _, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    in_their_axes = left.mT @ found @ right.mT
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


@pytest.mark.parametrize("skipped", [False, True])
def test_a_step_that_is_to_change_nothing_changes_nothing(skipped: bool) -> None:
    flow = small_flow()
    optimizer = make_optimizer(flow, config(), "float32")
    assert isinstance(optimizer, Muon)
    set_gradients(flow, 0)
    optimizer.step()
    expected, moments = copy.deepcopy(flow.state_dict()), copy.deepcopy(optimizer.state_dict()["state"])
    set_gradients(flow, 1)
    if skipped:
        for parameter in flow.parameters():
            assert parameter.grad is not None
            parameter.grad[0] = torch.nan
    optimizer.found_inf = torch.tensor(float(skipped))
    optimizer.step()
    changed = [name for name, value in flow.state_dict().items() if not torch.equal(value, expected[name])]
    assert bool(changed) is not skipped
    if skipped:
        for index, entry in optimizer.state_dict()["state"].items():
            assert all(torch.equal(value, moments[index][name]) for name, value in entry.items()), index


def test_a_flow_without_couplings_is_refused() -> None:
    with pytest.raises(SettingUnsupported, match="optimizer: expected a flow with couplings for muon") as refused:
        find_preset("snf-conv-9l").architecture_for((1, 28, 28), config())
    assert refused.value.setting == "optimizer"
    find_preset("snf-glow-tiny").architecture_for((1, 28, 28), config())
