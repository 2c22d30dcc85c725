"""Calls about calibrations: scores of normal images from which a model's p-values are computed."""

from __future__ import annotations

import uuid
from typing import Literal

from snf_client.request import Call, path, query, read_json
from snf_client.schemas.calibrations import (
    CalibrationComparison,
    CalibrationList,
    CalibrationView,
)
from snf_client.schemas.jobs import JobView
from snf_client.transport import Resource, S, operation


class CalibrationsResource(Resource[S]):
    """API calls that list, show, compare, activate and create the p-value calibrations of a model.

    A calibration has the scores of normal images, from which p-values are computed.

    ``ref`` is a model as ``name``, ``name:3`` or ``name@champion``.
    """

    @operation
    def list(self, ref: str) -> Call[CalibrationList]:
        """Return all p-value calibrations of a model version, and the number of the one in use."""
        return Call("GET", path("models", ref, "calibrations"), read_json(CalibrationList))

    @operation
    def get(self, ref: str, number: int | None = None) -> Call[CalibrationView]:
        """Return the calibration ``number`` of a model version, or the active calibration if ``number`` is None.

        Calibration 0 came with the model.
        """
        chosen = "active" if number is None else number
        return Call("GET", path("models", ref, "calibrations", chosen), read_json(CalibrationView))

    @operation
    def choose(self, ref: str, number: int) -> Call[CalibrationList]:
        """Activate the p-value calibration ``number`` of a model version; return the list of all calibrations.

        Scoring uses it within about two seconds.
        """
        body = {"json": {"calibration": number}}
        return Call("PUT", path("models", ref, "calibrations", "active"), read_json(CalibrationList), body=body)

    @operation
    def compare(self, ref: str, number: int, *, against: int | None = None) -> Call[CalibrationComparison]:
        """Return how the threshold and verdicts of a model would change if another calibration became active.

        It compares the smallest alpha, the threshold, and the verdicts on the newest images.

        Args:
            ref: The model version.
            number: The calibration.
            against: The calibration to compare with; None for the one in use.
        """
        address = path("models", ref, "calibrations", number, "comparison")
        return Call("GET", address, read_json(CalibrationComparison), params=query(against=against))

    @operation
    def create(
        self,
        ref: str,
        dataset: str,
        *,
        activate: bool | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
        key: str | None = None,
    ) -> Call[JobView]:
        """Submit a background job that calibrates a model's p-values on a dataset of normal images.

        Returns the record of the job.

        Args:
            ref: The model version.
            dataset: Images like those to be scored, without anomalies.
            activate: Whether the new calibration becomes active; None: unless it is coarser than the one in use.
            precision: Arithmetic of scores while the calibration is active.
            key: Idempotency key, see ``JobsResource``.
        """
        return Call(
            "POST",
            path("models", ref, "calibrations"),
            read_json(JobView),
            headers={"Idempotency-Key": key or uuid.uuid4().hex},
            body={"json": {"dataset": dataset, "activate": activate, "precision": precision}},
        )
