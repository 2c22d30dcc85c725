"""The nine-layer convolutional flow as its authors structured it, rebuilt plainly: eager PyTorch in float32.

3x3 convolutions with zero padding and bias, cached log-dets, splines whose knots are made from their logits at every
call and for every image, squeezes, logit, standard normal (Keller et al. 2021, published code's structure; own code).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snf_models.bijections.activations import MIN_SHARE, MIN_SLOPE, SplineActivation
from snf_models.bijections.channels import Squeeze
from snf_models.bijections.convolution import ExactConv
from snf_models.bijections.convolution_matrix import materialise
from snf_models.bijections.pixels import LogitPixels
from snf_models.flows.flow import Flow

PIXELS = 256.0


class PlainFlow(nn.Module):
    """A convolutional flow by its authors' structure, with the weights and the cached log-dets of one of ours."""

    def __init__(self, flow: Flow, log_dets: dict[str, float]) -> None:
        super().__init__()
        assert isinstance(flow.pixels, LogitPixels)
        self.alpha = flow.pixels.alpha
        self.log_det = sum(log_dets.values())
        parts: list[nn.Module] = []
        for level in flow.level_list():
            for one in level.bijections():
                if isinstance(one, ExactConv):
                    parts.append(PlainConvolution(one))
                elif isinstance(one, SplineActivation):
                    parts.append(PlainSpline(one))
                elif isinstance(one, Squeeze):
                    parts.append(PlainSqueeze())
                else:
                    raise TypeError(f"{type(one).__name__} is no part of this system")
        self.parts = nn.ModuleList(parts)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Return log p of dequantised images in [0, 256), ``(N,)`` in nats."""
        y, log_det = self.squash(x)
        for part in self.parts:
            y, found = part(y)
            if found is not None:
                log_det = log_det + found
        z = y.flatten(1)
        return log_det + self.log_det - 0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)

    def squash(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logit of the squeezed pixels and its log-det."""
        v = (x / PIXELS + self.alpha) * (1 - 2 * self.alpha)
        log_v, log_rest = torch.log(v), torch.log(1 - v)
        constant = x[0].numel() * (math.log1p(-2 * self.alpha) - math.log(PIXELS))
        return log_v - log_rest, constant - (log_v + log_rest).flatten(1).sum(1)

    def sample(self, z: Tensor) -> Tensor:
        """Return images of latents ``(N, C, H, W)``, every convolution inverted as a dense matrix at every call."""
        for part in reversed(self.parts):
            z = part.inverse(z)
        return (torch.sigmoid(z) / (1 - 2 * self.alpha) - self.alpha) * PIXELS


class PlainConvolution(nn.Module):
    """w * x + b; its log-det is cached elsewhere."""

    def __init__(self, layer: ExactConv) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(one.detach().float().clone()) for one in (layer.weight, layer.bias))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Map ``x``."""
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[2] // 2), None

    def inverse(self, z: Tensor) -> Tensor:
        """Undo it by the inverse of the whole matrix."""
        matrix = materialise(self.weight, (z.shape[2], z.shape[3])).to(z.dtype)
        centred = (z - self.bias.view(1, -1, 1, 1)).flatten(1)
        return (centred @ torch.linalg.inv(matrix).T).view_as(z)


class PlainSqueeze(nn.Module):
    """2x2 blocks to channels."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Map ``x``."""
        return F.pixel_unshuffle(x, 2), None

    def inverse(self, z: Tensor) -> Tensor:
        """Undo it."""
        return F.pixel_shuffle(z, 2)


class PlainSpline(nn.Module):
    """A rational-quadratic spline for every element, in the usual way: knots for every value that lies inside."""

    def __init__(self, layer: SplineActivation) -> None:
        super().__init__()
        self.bound = layer.bound
        self.widths, self.heights, self.slopes = (
            nn.Parameter(one.detach().float().clone()) for one in (layer.widths, layer.heights, layer.slopes)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x`` and return the log-det of each image."""
        inside = (x >= -self.bound) & (x <= self.bound)
        result, log_slope = x.clone(), torch.zeros_like(x)
        result[inside], log_slope[inside] = self._spline(x, inside, inverse=False)
        return result, log_slope.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """Undo it."""
        inside = (z >= -self.bound) & (z <= self.bound)
        result = z.clone()
        result[inside] = self._spline(z, inside, inverse=True)[0]
        return result

    def _spline(self, values: Tensor, inside: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        widths, heights, slopes = (
            one.expand(len(values), *one.shape)[inside] for one in (self.widths, self.heights, self.slopes)
        )
        x, widths = self._knots(widths)
        y, heights = self._knots(heights)
        slopes = F.pad(MIN_SLOPE + F.softplus(slopes + math.log(math.expm1(1 - MIN_SLOPE))), (1, 1), value=1.0)
        given = values[inside][:, None]
        edges = (y if inverse else x).clone()
        edges[:, -1] += 1e-6
        k = torch.searchsorted(edges, given, right=True) - 1

        def at(table: Tensor, index: Tensor = k) -> Tensor:
            return table.gather(1, index)[:, 0]

        x0, y0, w, h, d0, d1 = at(x), at(y), at(widths), at(heights), at(slopes), at(slopes, k + 1)
        s, value = h / w, given[:, 0]
        if inverse:
            bend = (value - y0) * (d0 + d1 - 2 * s)
            a, b, c = h * (s - d0) + bend, h * d0 - bend, -s * (value - y0)
            theta = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
            return theta * w + x0, theta
        theta = (value - x0) / w
        mixed = theta * (1 - theta)
        below = s + (d0 + d1 - 2 * s) * mixed
        slope = s.square() * (d1 * theta.square() + 2 * s * mixed + d0 * (1 - theta).square())
        return y0 + h * (s * theta.square() + d0 * mixed) / below, torch.log(slope) - 2 * torch.log(below)

    def _knots(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        shares = MIN_SHARE + (1 - MIN_SHARE * logits.shape[-1]) * F.softmax(logits, dim=-1)
        edges = F.pad(torch.cumsum(shares, dim=-1), (1, 0)) * 2 * self.bound - self.bound
        edges[..., 0], edges[..., -1] = -self.bound, self.bound
        return edges, edges[..., 1:] - edges[..., :-1]
