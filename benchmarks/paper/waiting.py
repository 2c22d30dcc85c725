"""Waiting for a device, whose work is otherwise only started when a call returns."""

from __future__ import annotations

from collections.abc import Callable

import torch


def finish_on(device: torch.device | str) -> Callable[[], None]:
    """Return a function that returns when a device has done all work, at once on a CPU."""
    if torch.device(device).type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
