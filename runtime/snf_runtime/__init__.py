"""Scores and verdicts of images without torch: the code that the service runs, and a runner of exported models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snf_runtime.exported.model import Model

__all__ = ["Model"]


def __getattr__(name: str) -> Any:
    """Return :class:`Model`, which is imported late: it needs OpenVINO, and most modules of the package do not."""
    if name == "Model":
        from snf_runtime.exported.model import Model  # noqa: PLC0415 - as said above

        return Model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
