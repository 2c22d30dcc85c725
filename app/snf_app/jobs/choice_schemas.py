from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from snf_app.http.schemas import REF, Answer
from snf_worker.jobs.record import JobType

CHOICES: dict[str, Any] = {
    "datasets": [
        {
            "name": "mnist-mini",
            "images": 600,
            "image_shape": [1, 28, 28],
            "problem": "it does not suit my-parts:1: the images of mnist-mini are 1x28x28, this model takes 3x64x64 "
            "(channels x height x width)",
            "problem_as_anomalies": None,
            "note": None,
        },
        {
            "name": "line-1",
            "images": 600,
            "image_shape": [3, 64, 64],
            "problem": None,
            "problem_as_anomalies": None,
            "note": None,
        },
    ],
    "suggested": None,
}


class JobDraft(BaseModel):
    """Job request that leaves the dataset open, sent to ask which datasets the job could use.

    Its fields mean the same as in a job request. Fields on which the answer does not depend are left out.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"type": "calibrate", "model": "my-parts"}]},
    )

    type: JobType
    model: str | None = Field(
        None, pattern=REF, description="The model; not needed for a training or a recommendation."
    )
    preset: str = Field("snf-glow-small", description="train: the preset.")
    architecture: dict[str, Any] | None = Field(None, description="train: an architecture in place of a preset.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="Parameters of the job.")


class JobDataset(Answer):
    """Dataset with the number and shape of its images and, if a job cannot use it, the reason."""

    name: str
    images: int
    image_shape: list[int] = Field(description="Channels, height, width.")
    problem: str | None = Field(description="Why the job would be refused with this dataset; null if it would not.")
    problem_as_anomalies: str | None = Field(
        description="evaluate: why it cannot be the anomalous images; null if it can, and for other jobs."
    )
    note: str | None = Field(
        description="What to know before it is chosen: which images are used, or that they may not suit; else null."
    )


class JobDatasets(Answer):
    """All datasets as choices for a job; each dataset that the job cannot use comes with the reason."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [CHOICES]})

    datasets: list[JobDataset]
    suggested: str | None = Field(description="The dataset that is clearly meant; null where the user has to choose.")
