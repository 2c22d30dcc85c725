"""Named architectures. Free of torch, so that a service can list them without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Linear = Literal["self-normalizing", "exact"]


@dataclass(frozen=True)
class Preset:
    """A multi-scale Glow by its depth a level, the width of its coupling nets and its 1x1 convolution."""

    name: str
    steps: int
    width: int
    linear: Linear
    purpose: str


def _twins(size: str, steps: int, width: int, purpose: str) -> list[Preset]:
    return [
        Preset(f"snf-glow-{size}", steps, width, "self-normalizing", purpose),
        Preset(f"exact-glow-{size}", steps, width, "exact", f"{purpose}; exact gradient, for comparison"),
    ]


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        *_twins("tiny", 4, 32, "tests, seconds"),
        *_twins("small", 8, 128, "a CPU, minutes to an hour"),
        *_twins("medium", 16, 256, "hours on a CPU"),
    )
}


def depth(height: int, width: int) -> int:
    """Return the number of levels for an image of this size: halve while both sides are even and the result is >= 4.

    >>> depth(28, 28), depth(32, 32), depth(64, 64), depth(27, 28)
    (2, 3, 4, 0)
    """
    levels = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) // 2 >= 4:
        height, width, levels = height // 2, width // 2, levels + 1
    return levels
