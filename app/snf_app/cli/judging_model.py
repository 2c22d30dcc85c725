"""Look-up of the model version and calibration that judge images, on this machine or in a service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from snf_app.cli.common import fail, registry
from snf_runtime.errors import FAILED

if TYPE_CHECKING:
    from snf_client import Client
    from snf_client.schemas.models import ModelDetail
    from snf_client.scores import ScorePart
    from snf_models.registry.registry import ModelVersion


@dataclass(frozen=True)
class JudgingModel:
    """Model version and calibration that a command uses to judge images."""

    ref: str  # ``name:version``
    calibration: int
    warnings: tuple[str, ...] = ()  # sentences: why it is unfit, drift of images, and about the calibration

    @property
    def label(self) -> str:
        """Text that names the model version and the number of its calibration, for messages.

        >>> JudgingModel("digits:2", 1).label
        'digits:2 with calibration 1'
        """
        return f"{self.ref} with calibration {self.calibration}"

    def check_scores(self, part: ScorePart) -> None:
        if part.calibration not in (None, self.calibration):
            raise fail(
                f"expected scores of {self.label}, got some of calibration {part.calibration}: another one was "
                "activated meanwhile; repeat the command",
                FAILED,
            )

    @classmethod
    def of_version(cls, version: ModelVersion) -> JudgingModel:
        from snf_models.registry.calibrations import gradient_warning  # noqa: PLC0415 - NumPy waits for the work

        ref = f"{version.name}:{version.version}"
        warnings = [f"{ref} is unfit: {check.sentence}" for check in version.manifest.unfit]
        if ignored := gradient_warning(version.calibration_path or version.path):
            warnings.append(f"calibration {version.calibration} of {ref}: {ignored}")
        return cls(ref, version.calibration, tuple(warnings))

    @classmethod
    def of_detail(cls, detail: ModelDetail) -> JudgingModel:
        ref = f"{detail.name}:{detail.version}"
        warnings = [f"{ref} is unfit: {reason.detail}" for reason in detail.unfit]
        warnings += [
            f"{ref} has a drift alarm of {window.source or 'all sources'}: its p-values may be off"
            for window in detail.drift
            if window.alarm
        ]
        calibration = detail.calibration
        texts = filter(None, (calibration.problem, calibration.warning))
        warnings += [f"calibration {calibration.number} of {ref}: {text}" for text in texts]
        return cls(ref, calibration.number, tuple(warnings))


def judging_model(model: str, client: Client | None) -> JudgingModel:
    """Resolve a reference such as ``digits@live`` in the service, or in this machine's registry."""
    if client is not None:
        return JudgingModel.of_detail(client.models.get(model))
    return JudgingModel.of_version(registry().resolve(model))
