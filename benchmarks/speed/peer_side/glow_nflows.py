"""A Glow from nflows' transforms, with the paper's split prior."""

import torch
from nflows import distributions, flows, transforms
from torch import nn


class Net(nn.Module):
    """The network inside a coupling: 3x3, ReLU, 1x1, ReLU, 3x3."""

    def __init__(self, inside: int, out: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(inside, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, out, 3, padding=1),
        )

    def forward(self, x: torch.Tensor, context: object = None) -> torch.Tensor:
        return self.net(x)


def build(shape: tuple[int, int, int], levels: int, steps: int, width: int) -> nn.Module:
    """Return a Glow of ``levels`` times squeeze, ``steps`` steps and split; a coupling before each split as prior.

    Its 1x1 convolutions cache their weights in evaluation, which the library offers and which is faster.
    """

    def coupling(channels: int, *, first: bool = False) -> transforms.Transform:
        kept = (channels + 1) // 2
        mask = [int((channel < kept) == first) for channel in range(channels)]
        return transforms.AffineCouplingTransform(mask, lambda inside, out: Net(inside, out, width))

    multiscale = transforms.MultiscaleCompositeTransform(levels)
    channels, height, width_px = shape
    for level in range(levels):
        channels, height, width_px = 4 * channels, height // 2, width_px // 2
        parts: list[transforms.Transform] = [transforms.SqueezeTransform()]
        for _ in range(steps):
            mixing = transforms.OneByOneConvolution(channels, using_cache=True, identity_init=False)
            parts += [transforms.ActNorm(channels), mixing, coupling(channels)]
        if level < levels - 1:
            # Here it is the first half that leaves.
            parts.append(coupling(channels, first=True))
        multiscale.add_transform(transforms.CompositeTransform(parts), (channels, height, width_px))
        channels //= 2
    dimensions = shape[0] * shape[1] * shape[2]
    return flows.Flow(multiscale, distributions.StandardNormal([dimensions]))


def log_prob(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model.log_prob(x)


def sample(model: nn.Module, count: int) -> torch.Tensor:
    return model.sample(count)
