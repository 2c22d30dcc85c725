"""The model version and calibration that ``snf score`` judges with, here or in a service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.cli.common import registry

if TYPE_CHECKING:
    from models.registry.version import ModelVersion
    from snf_client import Client
    from snf_client.schemas import ModelDetail


@dataclass(frozen=True)
class JudgingModel:
    """The model version and calibration that judge the images of a command, and what the user should know of them.

    Attributes:
        ref: Name and version as ``name:version``.
        calibration: Number of the calibration.
        warnings: Why the version is unfit, and drift of images that the service has seen, in sentences.
    """

    ref: str
    calibration: int
    warnings: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Version and calibration in words.

        >>> JudgingModel("digits:2", 1).label
        'digits:2 with calibration 1'
        """
        return f"{self.ref} with calibration {self.calibration}"

    @classmethod
    def of_version(cls, version: ModelVersion) -> JudgingModel:
        """Return the model of a version in this machine's registry."""
        ref = f"{version.name}:{version.version}"
        unfit = (f"{ref} is unfit: {check.sentence}" for check in version.manifest.unfit)
        return cls(ref, version.calibration, tuple(unfit))

    @classmethod
    def of_detail(cls, detail: ModelDetail) -> JudgingModel:
        """Return the model that ``detail`` describes, with warnings about its fitness, drift and calibration."""
        ref = f"{detail.name}:{detail.version}"
        warnings = [f"{ref} is unfit: {reason.detail}" for reason in detail.unfit]
        warnings += [
            f"{ref} has a drift alarm of {window.source or 'all images'}: its p-values may be off"
            for window in detail.drift
            if window.alarm
        ]
        if detail.calibration.problem is not None:
            warnings.append(f"calibration {detail.calibration.number} of {ref}: {detail.calibration.problem}")
        return cls(ref, detail.calibration.number, tuple(warnings))


def judging_model(model: str, client: Client | None) -> JudgingModel:
    """Return what a model reference means now, in the service of ``client`` or in this machine's registry."""
    if client is not None:
        return JudgingModel.of_detail(client.models.get(model))
    return JudgingModel.of_version(registry().resolve(model))
