"""Layers with the parameters of the published code, written from the equations and apart from those of the project.

Each maps x to z and the log-det of each image, in nats. Names, order and numbers of the parameters are those of a
published checkpoint. Conventions: Keller et al. 2021, and Durkan et al. 2019 for the splines.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MARGIN = 1e-6


class Noise(nn.Module):
    """Dequantisation, which the tests do themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.distribution = nn.Module()
        self.distribution.register_buffer("empty", torch.zeros(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.new_zeros(len(x))


class Normalization(nn.Module):
    def __init__(self, translation: float, scale: float) -> None:
        super().__init__()
        self.register_buffer("translation", torch.tensor([translation], dtype=torch.float64))
        self.register_buffer("scale", torch.tensor([scale], dtype=torch.float64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        each = -torch.log(self.scale) * x[0].numel()
        return (x - self.translation) / self.scale, each.expand(len(x))


class Logit(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.log() - (1 - x).log(), -(x.log() + (1 - x).log()).flatten(1).sum(1)


class Squeeze(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n, c, h, w = x.shape
        blocks = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
        return blocks.reshape(n, 4 * c, h // 2, w // 2), x.new_zeros(n)


class ActNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.translation = nn.Parameter(0.3 * torch.randn(channels))
        self.log_scale = nn.Parameter(0.3 * torch.randn(channels))
        self.register_buffer("initialized", torch.tensor(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = -self.log_scale.sum() * x.shape[2] * x.shape[3]
        shift, log_scale = self.translation.view(1, -1, 1, 1), self.log_scale.view(1, -1, 1, 1)
        return (x - shift) * torch.exp(-log_scale), log_det.expand(len(x))


class SelfNormalizing(nn.Module):
    """A convolution, or with ``flat`` a fully connected layer over 1x1 images of all values."""

    def __init__(self, channels: int, kernel: int = 1, *, flat: bool = False) -> None:
        super().__init__()
        self.flat = flat
        self.weight_fwd = nn.Parameter(near_identity(channels, kernel))
        self.weight_inv = nn.Parameter(near_identity(channels, kernel))
        self.bias_fwd = nn.Parameter(0.1 * torch.randn(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        images = x.reshape(len(x), -1, 1, 1) if self.flat else x
        shape, padding = images.shape[1:], self.weight_fwd.shape[2] // 2
        basis = torch.eye(shape.numel(), dtype=x.dtype).reshape(-1, *shape)
        matrix = F.conv2d(basis, self.weight_fwd, padding=padding).flatten(1)
        z = F.conv2d(images, self.weight_fwd, self.bias_fwd, padding=padding)
        return z.reshape(x.shape), torch.linalg.slogdet(matrix).logabsdet.expand(len(x))


class Conv1x1(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.W = nn.Parameter(near_identity(channels, 1)[:, :, 0, 0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.shape[2] * x.shape[3] * torch.linalg.slogdet(self.W).logabsdet
        return torch.einsum("oi,nihw->nohw", self.W, x), log_det.expand(len(x))


class SmoothLeakyReLU(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        slope = 0.3 + 0.7 * torch.sigmoid(x)
        return 0.3 * x + 0.7 * torch.logaddexp(x, torch.zeros_like(x)), slope.log().flatten(1).sum(1)


class Spline(nn.Module):
    """Five bins on [-10, 10] for each value of an image, one bin after the other."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.unnormalized_widths = nn.Parameter(0.5 * torch.randn(1, *shape, 5))
        self.unnormalized_heights = nn.Parameter(0.5 * torch.randn(1, *shape, 5))
        self.unnormalized_derivatives = nn.Parameter(0.5 * torch.randn(1, *shape, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        widths, heights = (
            20 * (1e-3 + (1 - 5e-3) * torch.softmax(logits, -1))
            for logits in (self.unnormalized_widths, self.unnormalized_heights)
        )
        inner = 1e-3 + F.softplus(self.unnormalized_derivatives + math.log(math.exp(1 - 1e-3) - 1))
        one = torch.ones_like(inner[..., :1])
        slopes = torch.cat([one, inner, one], -1)
        z, log_slope = x, torch.zeros_like(x)
        left, bottom = torch.full_like(x, -10), torch.full_like(x, -10)
        for k in range(5):
            width, height, first, last = widths[..., k], heights[..., k], slopes[..., k], slopes[..., k + 1]
            t, mean = (x - left) / width, height / width
            below = mean + (first + last - 2 * mean) * t * (1 - t)
            y = bottom + height * (mean * t**2 + first * t * (1 - t)) / below
            slope = mean**2 * (last * t**2 + 2 * mean * t * (1 - t) + first * (1 - t) ** 2) / below**2
            inside = (t >= 0) & (t < 1)
            z, log_slope = torch.where(inside, y, z), torch.where(inside, slope.abs().log(), log_slope)
            left, bottom = left + width, bottom + height
        return z, log_slope.flatten(1).sum(1)


class GainConv(nn.Conv2d):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.logs = nn.Parameter(0.1 * torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.exp(3 * self.logs).view(1, -1, 1, 1)


class Coupling(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        first, middle = nn.Conv2d(channels // 2, width, 3, padding=1), nn.Conv2d(width, width, 1)
        self.net = nn.Sequential(first, nn.ReLU(), middle, nn.ReLU(), GainConv(width, channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x.chunk(2, 1)
        out = self.net(kept)
        log_scale, shift = 2 * torch.tanh(out[:, 0::2] / 2), out[:, 1::2]
        return torch.cat([kept, moved * log_scale.exp() + shift], 1), log_scale.flatten(1).sum(1)


class SplitPrior(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.transform = Coupling(channels, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = self.transform(x)
        kept, latent = z.chunk(2, 1)
        return kept, log_det + normal(latent)


class Published(nn.Sequential):
    """A flow of the published code: the preprocessing of its experiments, then the given modules."""

    def __init__(self, *modules: nn.Module) -> None:
        margin = Normalization(-MARGIN, 1 / (1 - 2 * MARGIN))
        super().__init__(Noise(), Normalization(0.0, 256.0), margin, Logit(), *modules)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Log-density of dequantised images over [0, 256)^D in nats, in the type of the parameters."""
        total = x.new_zeros(len(x))
        for module in self:
            x, log_det = module(x)
            total = total + log_det
        return total + normal(x)


def normal(z: Tensor) -> Tensor:
    return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)


def near_identity(channels: int, kernel: int) -> Tensor:
    eye = torch.zeros(channels, channels, kernel, kernel)
    eye[:, :, kernel // 2, kernel // 2] = torch.eye(channels)
    return eye + 0.3 / (channels * kernel * kernel) ** 0.5 * torch.randn_like(eye)


def glow(width: int = 6) -> Published:
    """Two levels for grey images of sides that are multiples of 4."""
    return Published(
        *(Squeeze(), ActNorm(4), SelfNormalizing(4), Coupling(4, width)),
        *(ActNorm(4), Conv1x1(4), Coupling(4, width), SplitPrior(4, width)),
        *(Squeeze(), ActNorm(8), SelfNormalizing(8), Coupling(8, width)),
    )


def convolutional(side: int) -> Published:
    half = side // 2
    return Published(
        *(SelfNormalizing(1, 3), Spline(1, side, side), SelfNormalizing(1, 3), SmoothLeakyReLU()),
        *(SelfNormalizing(1, 3), Squeeze(), SelfNormalizing(4, 3), Spline(4, half, half), SelfNormalizing(4, 5)),
    )


def fully_connected(side: int) -> Published:
    return Published(SelfNormalizing(side**2, flat=True), SmoothLeakyReLU(), SelfNormalizing(side**2, flat=True))
