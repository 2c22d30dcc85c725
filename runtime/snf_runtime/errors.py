"""Error classes of scoring and detection, exit codes, and counts of judged images."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from enum import StrEnum
from typing import Any

RATE_DIGITS = 4  # significant digits of the smallest attainable rate


def unattainable(alpha: float, images: int) -> str:
    """Return the error text for a rate below 1 / (n + 1), with that rounded up: rounded down it would be refused.

    >>> unattainable(0.001, 49).partition(": ")[2]
    'with 49 calibration images the smallest attainable is 0.02 (1/(49 + 1), rounded up)'
    """
    exact = Context(prec=RATE_DIGITS, rounding=ROUND_CEILING).divide(Decimal(1), Decimal(images + 1))
    return (
        f"alpha = {alpha:g} is not attainable: with {images} calibration images the smallest attainable is "
        f"{exact.normalize():f} (1/({images} + 1), rounded up)"
    )


class ErrorKind(StrEnum):
    """The kind of an error, such as not found or invalid; it decides the HTTP status and the exit code."""

    NOT_FOUND = "not-found"
    CONFLICT = "conflict"
    INVALID = "invalid"
    BUSY = "busy"
    NO_SPACE = "no-space"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"


def _new_error(kind: type[ModelsError], arguments: tuple[Any, ...]) -> ModelsError:
    """Return an error of a class as pickle makes it: its attributes come afterwards."""
    return kind.__new__(kind, *arguments)


class ModelsError(Exception):
    """Base class of the errors of service and runtime: a stable ``slug``, a ``title``, a ``kind`` and a ``detail``."""

    slug = "models-error"
    title = "The request cannot be served"
    kind = ErrorKind.FAILED

    def __init_subclass__(cls, *, slug: str = "", title: str = "", kind: ErrorKind | None = None) -> None:
        super().__init_subclass__()
        cls.slug, cls.title, cls.kind = slug or cls.slug, title or cls.title, kind or cls.kind

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the attributes: other processes get the same error, however many arguments its class takes."""
        return _new_error, (type(self), self.args), self.__dict__


class ImageError(ModelsError, title="The image cannot be scored", kind=ErrorKind.INVALID):
    """Raised for an image that cannot be decoded or scored; the slug gives the reason, such as ``file-too-large``."""

    def __init__(self, slug: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = title


def unsupported_image(detail: str) -> ImageError:
    """Return the ``ImageError`` for an intact image file of a kind that is not supported."""
    return ImageError("unsupported-image", "The image is of an unsupported kind", detail)


def transparent_image() -> ImageError:
    """Return the ``ImageError`` for an image that is not fully opaque."""
    detail = "expected opaque pixels; place the image on a background first"
    return ImageError("unsupported-image", "The image is transparent", detail)


class ArtifactError(ModelsError, slug="damaged-artifact", title="The model's files are damaged"):
    """Raised if files of a stored model are missing, damaged or do not fit each other."""


class EngineUnavailable(ModelsError, slug="engine-unavailable", title="The engine cannot run here"):
    """Raised for a scoring engine, such as OpenVINO, that cannot run on this machine or cannot run this model."""


class AlphaUnattainable(
    ModelsError,
    slug="alpha-unattainable",
    title="The false-alarm rate is too small for this model's calibration set",
    kind=ErrorKind.INVALID,
):
    """Raised for a false-alarm rate below 1 / (n + 1), the smallest p-value of n calibration images."""

    def __init__(self, alpha: float, smallest: float) -> None:
        super().__init__(unattainable(alpha, round(1 / smallest) - 1))
        self.smallest = smallest


class HeatMapUnsupported(
    ModelsError, slug="explain-unsupported", title="This model has no heat map", kind=ErrorKind.INVALID
):
    """Raised if a heat map is asked of a flow that mixes all pixels, which have no log-likelihood of their own."""


class ScoreNotFinite(
    ImageError,
    slug="score-not-finite",
    title="The image has no finite likelihood under this model",
    kind=ErrorKind.INVALID,
):
    """Error, returned in place of a result, of an image on which the arithmetic of the flow overflowed."""

    def __init__(self, detail: str) -> None:
        super().__init__(self.slug, self.title, detail)


class SizeNotCalibrated(
    ImageError,
    slug="size-not-calibrated",
    title="The model has no calibration for images of this size",
    kind=ErrorKind.INVALID,
):
    """Error, returned in place of a verdict, of an image with fewer or more tiles than the calibration images."""

    def __init__(self, detail: str) -> None:
        super().__init__(self.slug, self.title, detail)


OK, ANOMALY, USAGE, FAILED, NOT_JUDGED = 0, 1, 2, 3, 4
"""Exit codes: success, an anomaly where that was asked for, wrong usage, a failure of the program, and an image that
was not judged, whatever else was found."""


@dataclass(frozen=True)
class JudgedCounts:
    """Counts of images: how many were judged, how many of these are anomalies, how many could not be judged."""

    judged: int
    anomalies: int
    not_judged: int

    @property
    def text(self) -> str:
        """The counts as one line.

        >>> JudgedCounts(11, 2, 1).text
        '11 images judged, 2 anomalies, 1 not judged'
        """
        images = "1 image" if self.judged == 1 else f"{self.judged} images"
        anomalies = "1 anomaly" if self.anomalies == 1 else f"{self.anomalies} anomalies"
        return f"{images} judged, {anomalies}, {self.not_judged} not judged"

    def exit_code(self, *, fail_on_anomaly: bool) -> int:
        """Return 4 if an image was not judged, else 1 for anomalies with ``fail_on_anomaly``, else 0."""
        if self.not_judged:
            return NOT_JUDGED
        return ANOMALY if fail_on_anomaly and self.anomalies else OK
