"""What processes do that publish at once; without PyTorch, which each of them would import for seconds."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from snf_models.artifacts.manifest import CalibrationSummary
from snf_models.registry.registry import Registry


def publish_versions(root: Path, artifact: Path, count: int, answers: multiprocessing.Queue[int]) -> None:
    registry = Registry(root, zoo=root / "no-zoo")
    for number in range(count):
        answers.put(registry.publish(artifact, "digits", promote=number % 2 == 0).version)


def publish_calibrations(
    root: Path, made: tuple[bytes, CalibrationSummary], answers: multiprocessing.Queue[int]
) -> None:
    for _ in range(4):
        answers.put(Registry(root, zoo=root / "no-zoo").calibrations("digits", 1).publish(*made))
