from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from snf_models.registry.version import ModelVersion

Origin = Literal["job", "command"]


class RunStart(BaseModel):
    """Description of a training run at its start, such as its model, dataset, parameters and device."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    origin: Origin = Field(description="`job`: a job of the service; `command`: `snf train` on its machine.")
    model: str = Field(description="Name of the model that is trained.")
    dataset: str
    preset: str = Field(description="Name of the preset, or of the architecture in its place.")
    parameters: dict[str, Any] = Field(description="All parameters of the training, with the defaults of the preset.")
    device: str
    retry_of: str | None = Field(None, description="Run of the job that this job retries, from its checkpoint.")


class RunResult(BaseModel):
    """Model version that a training run registered, with its measured quality.

    A figure that the model does not have is null.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    ref: str = Field(description="The model version, as name:version.")
    live: bool = Field(description="Whether it became live.")
    unfit: dict[str, str] = Field(description="Why it is unfit to become live by itself, by code; empty if it is fit.")
    architecture: str = Field(description="The layers, in words.")
    best_step: int = Field(description="Step whose weights were kept.")
    validation_bits_per_dim: float | None = None
    test_bits_per_dim: float | None = None
    test_nats: float | None = Field(None, description="Mean negative log-likelihood of test images, nats an image.")
    reconstruction_error: float | None = Field(None, description="Largest ||I - R W|| over the layers.")

    @classmethod
    def of(cls, version: ModelVersion, *, live: bool) -> RunResult:
        manifest = version.manifest
        measured = manifest.evaluation
        return cls(
            ref=f"{version.name}:{version.version}",
            live=live,
            unfit={check.code: check.sentence for check in manifest.unfit},
            architecture=manifest.architecture.summary(),
            best_step=manifest.training.best_step,
            validation_bits_per_dim=measured.validation_bits_per_dim,
            test_bits_per_dim=measured.test_bits_per_dim,
            test_nats=measured.test_nats,
            reconstruction_error=measured.reconstruction_error,
        )


class TrainingRun(RunStart):
    """Record of a training run with its parameters and its result.

    The record stays when its job or its model is deleted. A run is `unfinished` while it is trained, and stays so if it
    is interrupted, cancelled or killed; that of a job is `failed` once the job is. A run that goes on from its
    checkpoint keeps its record.
    """

    id: str = Field(description="Identifier, that of the job for a job; ids sort by time.")
    state: Literal["unfinished", "finished", "failed"] = "unfinished"
    attempts: int = Field(1, description="How often it began or went on.")
    started: datetime = Field(description="Start of the first attempt, UTC.")
    ended: datetime | None = Field(None, description="When it finished or failed, UTC.")
    steps: int | None = Field(None, description="Optimiser steps of a run that has ended.")
    seconds: float | None = Field(None, description="Duration of its steps or fit, without interruptions.")
    error: str | None = Field(None, description="Why it failed.")
    result: RunResult | None = None
