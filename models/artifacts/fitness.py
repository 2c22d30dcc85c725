"""Checks that decide whether a model is fit to serve, and the reasons if it is not.

A check compares a figure, measured when the model was made, with a limit. The module does not import torch.
"""

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
    """Quality check of a trained model: a measured figure and the limit that it must satisfy.

    Attributes:
        measure: ``pixels``: bits/dim of held-out images, less than those of independent pixels. ``features``: log-
            likelihood of held-out features in nats a value, more than that of one Gaussian for all places.
            ``validation``: bits/dim of the last validation, at most those of the first one, or of the first report of a
            training with one validation. ``training``: bits/dim of training images at the end, at most those of the
            first validation, where the last one is worse because the flow has overfitted. ``learned-inverse``: error of
            held-out images after the flow and its learned inverse, root mean square in pixel values, at most 0.5.
        found: The figure; None if it is not finite.
        limit: The limit, in the unit of the figure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    measure: Measure
    found: float | None
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the figure measured for a model satisfies its limit; False if the figure is not finite."""
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
        """The stable reason code for a model that fails this check, such as ``diverged``."""
        return _CODES[self.measure]

    @property
    def sentence(self) -> str:
        """The result of this check as a sentence, with the measured figure and its limit.

        The sentence has no full stop. That of a failed check begins with the reason.
        """
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
    """Results of the checks that decide whether a model may go live automatically.

    The model is fit if all checks are passed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checks: tuple[FitnessCheck, ...]

    @property
    def failed(self) -> tuple[FitnessCheck, ...]:
        """The checks that the model failed.

        They are the reasons why the model is unfit. A fit model has none.
        """
        return tuple(check for check in self.checks if not check.passed)


def in_words(failed: Iterable[FitnessCheck]) -> str:
    """Return one text with a sentence on each of a model's failed fitness checks, joined by semicolons."""
    return "; ".join(check.sentence for check in failed)
