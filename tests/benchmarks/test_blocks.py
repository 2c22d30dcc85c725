"""The blocks of the trial: inverse, log-det and frozen copy, against the Jacobian in float64."""

from __future__ import annotations

import pytest
import torch

from benchmarks.blocks.__main__ import Block, replace_couplings
from benchmarks.blocks.patch_causal import PatchCausal
from benchmarks.blocks.spatial_coupling import SpatialCoupling
from snf_models.flows.architecture import GlowArchitecture
from snf_models.flows.build import build_flow

SHAPE = (2, 4, 6)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("block", [SpatialCoupling, PatchCausal])
def test_block_has_the_log_det_of_its_jacobian(block: Block, swapped: bool) -> None:
    torch.manual_seed(0)
    module = block(SHAPE[0], 8, SHAPE[1:], place=True, swapped=swapped).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(1, *SHAPE, dtype=torch.float64)

    jacobian = torch.autograd.functional.jacobian(lambda flat: module(flat.view(1, *SHAPE))[0].flatten(), x.flatten())
    with torch.no_grad():
        z, log_det = module(x)
        back, log_det_back = module.inverse(z)
        z_frozen, by_pixel = module.float().freeze(SHAPE).forward(x)

    expected = torch.linalg.slogdet(jacobian).logabsdet
    assert float(expected.detach()) != 0
    torch.testing.assert_close(log_det, expected.view(1))
    torch.testing.assert_close(log_det_back, -log_det)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(z_frozen, z, rtol=1e-5, atol=1e-5)
    assert by_pixel is not None
    assert by_pixel.shape == (1, *SHAPE[1:])
    torch.testing.assert_close(by_pixel.sum((1, 2)), log_det, rtol=1e-5, atol=1e-5)


def test_patch_sees_no_later_patch() -> None:
    torch.manual_seed(0)
    module = PatchCausal(SHAPE[0], 8, SHAPE[1:], place=False, swapped=False).double()
    with torch.no_grad():
        module.net.last.weight.normal_()
    x = torch.randn(1, *SHAPE, dtype=torch.float64)
    changed = x.clone()
    changed[:, :, 2, 3] += 1

    with torch.no_grad():
        differs = (module(x)[0] != module(changed)[0]).any(1).flatten()

    assert differs.nonzero().min() == 2 * SHAPE[2] + 3
    assert differs.sum() > 1


def test_every_second_coupling_of_levels_of_even_width_is_replaced() -> None:
    flow = build_flow(GlowArchitecture(channels=1, height=28, width=28, levels=2, steps=4, hidden=8))

    assert replace_couplings(flow, SpatialCoupling, (28, 28)) == 2
    kinds = [[type(step) for step in level.steps if not step.constant_log_det] for level in flow.level_list()]
    assert kinds[0].count(SpatialCoupling) == 2
    assert kinds[1].count(SpatialCoupling) == 0
