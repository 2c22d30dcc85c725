"""Calls for calibrations of models: the sets of images among which p-values are ranks."""

from __future__ import annotations

import uuid
from typing import Literal

from snf_client.request import Call, path, read_json
from snf_client.schemas import CalibrationChoice, CalibrationList, CalibrationRequest, CalibrationView, JobView
from snf_client.transport import Resource, S, operation


class CalibrationsResource(Resource[S]):
    """Calls for the calibrations of a model, the sets of normal images that its p-values are relative to.

    ``ref`` is a model as ``name``, ``name:3`` or ``name@champion``.
    """

    @operation
    def list(self, ref: str) -> Call[CalibrationList]:
        """Return the calibrations of a model version, and the number of the active calibration."""
        return Call("GET", path("models", ref, "calibrations"), read_json(CalibrationList))

    @operation
    def get(self, ref: str, number: int) -> Call[CalibrationView]:
        """Return a calibration of a model version by its number. Number 0 was published with the model."""
        return Call("GET", path("models", ref, "calibrations", number), read_json(CalibrationView))

    @operation
    def choose(self, ref: str, number: int) -> Call[CalibrationList]:
        """Make a calibration of a model version active for its p-values, and return all calibrations."""
        body = {"json": CalibrationChoice(calibration=number).model_dump()}
        return Call("PUT", path("models", ref, "calibrations", "active"), read_json(CalibrationList), body=body)

    @operation
    def create(
        self,
        ref: str,
        dataset: str,
        *,
        activate: bool = True,
        precision: Literal["float32", "bfloat16"] = "float32",
        key: str | None = None,
    ) -> Call[JobView]:
        """Submit a job that calibrates a model version on a dataset of normal images, and return its state.

        Args:
            ref: The model version.
            dataset: Images like those to be scored, without anomalies.
            activate: Make the new calibration the active one.
            precision: Arithmetic of scores while the calibration is active.
            key: Idempotency key, see ``JobsResource``.
        """
        request = CalibrationRequest(dataset=dataset, activate=activate, precision=precision)
        return Call(
            "POST",
            path("models", ref, "calibrations"),
            read_json(JobView),
            headers={"Idempotency-Key": key or uuid.uuid4().hex},
            body={"json": request.model_dump()},
        )
