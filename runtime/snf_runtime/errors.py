"""Error classes of scoring and anomaly verdicts, and the base class of all errors of the service."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from snf_runtime.attainable import unattainable


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
