"""A Glow by normflows, as its documentation builds one, with the paper's split prior."""

import normflows as nf
import torch
from torch import nn


def build(shape: tuple[int, int, int], levels: int, steps: int, width: int) -> nn.Module:
    """Return a Glow of ``levels`` times squeeze, ``steps`` blocks and split; a coupling before each split as prior.

    The half that leaves is whitened by a coupling on the half that stays: without it the peer would do one coupling
    net a level less than the model it is compared with.
    """
    base, flows, merges = [], [], []
    channels, height, width_px = shape
    for level in range(levels):
        channels, height, width_px = 4 * channels, height // 2, width_px // 2
        last = level == levels - 1
        blocks = [nf.flows.GlowBlock(channels, width, split_mode="channel", scale=True) for _ in range(steps)]
        prior = []
        if not last:
            kept = (channels + 1) // 2
            net = nf.nets.ConvNet2d([kept, width, width, 2 * (channels - kept)], (3, 1, 3), init_zeros=True)
            prior = [nf.flows.AffineCouplingBlock(net, True, "sigmoid", "channel")]
            merges.append(nf.flows.Merge())
            channels -= kept
        # In the direction of sampling: prior, steps, then the squeeze backwards.
        flows.append([*prior, *blocks, nf.flows.Squeeze()])
        base.append(nf.distributions.DiagGaussian((channels, height, width_px), trainable=False))
    # Its first level is the coarsest one.
    return nf.MultiscaleFlow(base[::-1], flows[::-1], merges[::-1], class_cond=False)


def log_prob(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model.log_prob(x, None)


def sample(model: nn.Module, count: int) -> torch.Tensor:
    return model.sample(count)[0]
