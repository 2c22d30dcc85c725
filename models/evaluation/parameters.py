"""What an evaluation may be told. Free of torch."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.naming import Name


class EvaluationParameters(BaseModel):
    """The anomalous sets that normal images are told from, and how many images count.

    ``thorough`` also compares the combined score that takes a backward pass into account: several times the work.
    ``alpha`` is a false-alarm rate to report beside 0.01 and 0.05. ``adapt``: images whose size or colour a model
    refuses are converted, and the report says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    against: list[Name] = Field([], max_length=20, description="Datasets of anomalous images.")
    corruptions: bool = Field(False, description="Also against the normal images with graded faults.")
    images: int = Field(10_000, ge=40, le=100_000, description="Most images of a set, evenly spread over it.")
    alpha: float | None = Field(None, gt=0, lt=1, description="A false-alarm rate to report beside 0.01 and 0.05.")
    thorough: bool = Field(False, description="Also the combined score with gradients, which takes far longer.")
    calibration: int | None = Field(None, ge=0, description="Number of the calibration. Default: the active one.")
    adapt: bool = Field(False, description="Convert size and colour where the model would refuse an image.")

    @model_validator(mode="after")
    def _something_to_tell_from(self) -> Self:
        if not self.against and not self.corruptions:
            raise ValueError("name datasets in `against`, or ask for `corruptions`")
        if len(set(self.against)) < len(self.against):
            raise ValueError("a dataset is named twice in `against`")
        return self
