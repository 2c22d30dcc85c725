"""Scores and verdicts of images without torch: the code that the service runs, and a runner of exported models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snf_runtime.exported.model import Model
    from snf_runtime.exported.results import FileVerdict, NotJudged

__all__ = ["FileVerdict", "Model", "NotJudged"]


def __getattr__(name: str) -> Any:
    """Return a public class, imported late: the model needs OpenVINO, and most modules of the package do not."""
    if name == "Model":
        from snf_runtime.exported.model import Model  # noqa: PLC0415 - as said above

        return Model
    if name in __all__:
        from snf_runtime.exported import results  # noqa: PLC0415 - as above

        return getattr(results, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
