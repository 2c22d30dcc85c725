"""Checks of a model's quality that decide whether it is fit to serve. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

Measure = Literal["pixels", "features", "validation", "training", "learned-inverse"]
"""What a check measures: the density of pixels, the density of features, the course of the training, or the inverse."""
UnfitCode = Literal["hardly-trained", "diverged", "learned-inverse-off"]
"""Stable name of a reason why a model is unfit."""

MAX_INVERSE_ERROR = 0.5
"""Largest root mean square error in pixel values with which a learned inverse may give held-out images back."""
MAX_PLAIN = 10_000
"""Figures from here on, of flows that diverged, are written in scientific notation."""

_CODES: dict[Measure, UnfitCode] = {
    "pixels": "hardly-trained",
    "features": "hardly-trained",
    "validation": "diverged",
    "training": "diverged",
    "learned-inverse": "learned-inverse-off",
}


class FitnessCheck(BaseModel):
    """A figure measured when the model was made, and its limit in the same unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    measure: Measure
    found: float | None  # bits/dim, nats for each feature value, or pixel values; None if it is not finite
    limit: float

    @property
    def passed(self) -> bool:
        if self.found is None:
            return False
        match self.measure:
            case "pixels":
                return self.found < self.limit
            case "features":
                return self.found > self.limit
            case "validation" | "training" | "learned-inverse":
                return self.found <= self.limit

    @property
    def code(self) -> UnfitCode:
        """The stable reason code for a model that fails, such as ``diverged``."""
        return _CODES[self.measure]

    @property
    def sentence(self) -> str:
        """The result in words, without a full stop."""
        found, limit = ("no finite number" if number is None else _brief(number) for number in (self.found, self.limit))
        match self.measure:
            case "pixels":
                side = "below" if self.passed else "not below"
                figures = f"{found} bits/dim on held-out images, {side} the {limit} of independent pixels"
            case "features":
                side = "above" if self.passed else "not above"
                figures = (
                    f"the log-likelihood of held-out features is {found} nats a value, {side} the {limit} of "
                    "one Gaussian for all places"
                )
            case "validation":
                side = "no worse" if self.passed else "worse"
                figures = f"the last validation has {found} bits/dim, {side} than at the start with {limit}"
            case "training":
                side = "no worse" if self.passed else "worse"
                figures = (
                    f"the flow overfitted: training images have {found} bits/dim at the end, {side} than held-out "
                    f"images at the start with {limit}; the weights of the best validation are kept"
                )
            case "learned-inverse":
                figures = (
                    f"the learned inverse gives held-out images back with an error of {found} pixel values (root mean "
                    f"square), at most {self.limit:g} are allowed"
                )
        return figures if self.passed else f"{self.code.replace('-', ' ')}: {figures}"


def _brief(number: float) -> str:
    return f"{number:.4f}" if abs(number) < MAX_PLAIN else f"{number:.3g}"


class FitnessRecord(BaseModel):
    """Results of all checks. A model that fails none may become live by itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checks: tuple[FitnessCheck, ...]

    @property
    def failed(self) -> tuple[FitnessCheck, ...]:
        return tuple(check for check in self.checks if not check.passed)


def in_words(failed: Iterable[FitnessCheck]) -> str:
    return "; ".join(check.sentence for check in failed)
