"""The process that runs normflows or nflows: reads commands as lines of JSON, answers each with one.

    {"do": "build", "library": "normflows", "shape": [1, 28, 28], "levels": 2, "steps": 16, "width": 512, "threads": 2}
    {"do": "score", "images": 64, "batch": 8}  ->  {"seconds": 1.2}
    {"do": "sample", "images": 100, "batch": 50}
    {"do": "train", "images": 100, "batch": 50}

Runs in the peers' environment and imports nothing of the project.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Side:
    """One Glow in memory, with images of its shape."""

    def __init__(
        self,
        library: str,
        shape: list[int],
        levels: int,
        steps: int,
        width: int,
        threads: int,
        images: int = 64,
        channels_last: bool = False,
    ) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.module = importlib.import_module(f"glow_{library}")
        model: nn.Module = self.module.build(tuple(shape), levels, steps, width)
        self.images = torch.rand(images, *shape) - 0.5
        if channels_last:
            self.images = self.images.contiguous(memory_format=torch.channels_last)
            model = model.to(memory_format=torch.channels_last)
        self.model = model
        with torch.no_grad():
            # Its actnorms take their scales from the first batch of training mode.
            model.train()
            self.module.log_prob(model, self.images[:16])
            for last in self.convolutions()[2::3]:
                nn.init.normal_(last.weight, std=0.1 / (9 * width) ** 0.5)
        model.eval()
        value = self.score(0, min(images, 16))
        if not torch.isfinite(value).all():
            raise ValueError("its log-densities are not finite")

    def convolutions(self) -> list[nn.Conv2d]:
        """Return the convolutions of the coupling nets: these libraries do their mixing by other means."""
        return [module for module in self.model.modules() if isinstance(module, nn.Conv2d)]

    def work(self) -> dict[str, Any]:
        """Return what the coupling nets cost: their parameters, and multiplications an image."""
        products = []

        def count(module: nn.Conv2d, _: Any, output: torch.Tensor) -> None:
            products.append(module.weight[0].numel() * output[0].numel())

        hooks = [one.register_forward_hook(count) for one in self.convolutions()]
        self.score(0, 1)
        for hook in hooks:
            hook.remove()
        parameters = sum(parameter.numel() for one in self.convolutions() for parameter in one.parameters())
        total = sum(parameter.numel() for parameter in self.model.parameters())
        return {"parameters": total, "coupling_parameters": parameters, "products": sum(products)}

    @torch.inference_mode()
    def score(self, first: int, after: int) -> torch.Tensor:
        return self.module.log_prob(self.model, self.images[first:after])

    @torch.inference_mode()
    def sample(self, first: int, after: int) -> torch.Tensor:
        return self.module.sample(self.model, after - first)

    def time_of(self, do: Callable[[int, int], Any], images: int, batch: int) -> float:
        """Return the seconds that some work takes in batches, by their first image and the one after their last."""
        began = time.perf_counter()
        for first in range(0, images, batch):
            do(first, min(images, first + batch))
        return time.perf_counter() - began

    def time_train(self, images: int, batch: int) -> float:
        """Return the seconds that optimiser steps on so many images take in batches, with Adam."""
        self.model.train()
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, fused=True)
        repeated = self.images[torch.arange(images) % len(self.images)]
        self._train_step(optimizer, repeated[:batch])  # makes the moments
        seconds = self.time_of(lambda first, after: self._train_step(optimizer, repeated[first:after]), images, batch)
        self.model.eval()
        return seconds

    def _train_step(self, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss = -self.module.log_prob(self.model, images).mean() / images[0].numel()
        loss.backward()
        optimizer.step()


def answer(side: Side | None, command: dict[str, Any]) -> tuple[Side | None, dict[str, Any]]:
    do = command.pop("do")
    if do == "build":
        side = Side(**command)
        return side, side.work()
    assert side is not None
    if do == "train":
        return side, {"seconds": side.time_train(**command)}
    return side, {"seconds": side.time_of(getattr(side, do), **command)}


def main() -> None:
    lines, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    side = None
    for line in sys.stdin:
        try:
            side, found = answer(side, json.loads(line))
        except Exception as error:  # the other end is told, whatever it is
            found = {"error": f"{type(error).__name__}: {error}"}
        lines.write(json.dumps(found) + "\n")
        lines.flush()


if __name__ == "__main__":
    main()
