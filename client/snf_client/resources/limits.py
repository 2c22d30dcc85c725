"""Calls for detection limits of models: the smallest injected defects that a model finds in good images."""

from __future__ import annotations

from snf_client.request import Call, path, read_json, read_text
from snf_client.schemas.limits import LimitList, LimitView
from snf_client.transport import Resource, S, operation


class LimitsResource(Resource[S]):
    """API calls about the detection limits of a model: the smallest defects that it reliably finds.

    To measure a limit, queue a job with ``client.jobs.limit``.

    ``ref`` is a model as ``name``, ``name:3`` or ``name@champion``.
    """

    @operation
    def list(self, ref: str) -> Call[LimitList]:
        """Return all measured detection limits (smallest defects found) of a model version, newest first.

        The result also has the number of the active calibration.
        """
        return Call("GET", path("models", ref, "limits"), read_json(LimitList))

    @operation
    def get(self, ref: str, number: int) -> Call[LimitView]:
        """Return a measured detection limit, the smallest defects that a model version finds, by its number.

        Numbers start at 1.
        """
        return Call("GET", path("models", ref, "limits", number), read_json(LimitView))

    @operation
    def chart(self, ref: str, number: int) -> Call[str]:
        """Return an SVG chart, as text, of the share of defects that a model finds at each defect size."""
        return Call("GET", path("models", ref, "limits", number, "chart"), read_text("image/svg+xml"))
