"""Calls about models and their calibrations."""

from __future__ import annotations

import uuid
from typing import Literal

from app.calibration_schemas import CalibrationChoice, CalibrationList, CalibrationRequest, CalibrationView
from app.client.call import Call, given, model, nothing, path
from app.client.sending import Group, S, operation
from app.model_schemas import ModelDetail, ModelPage
from app.reference_schemas import Reference
from app.schemas import JobView
from app.version_schemas import Aliases, AliasTarget


class Models(Group[S]):
    """Models; `ref` is `name`, `name:3` or `name@champion`."""

    @operation
    def list(self) -> Call[ModelPage]:
        """Every model name with its versions, aliases and state."""
        return Call("GET", path("models"), model(ModelPage))

    @operation
    def get(self, ref: str) -> Call[ModelDetail]:
        """One version: its manifest, its calibration in use and how it is served."""
        return Call("GET", path("models", ref), model(ModelDetail))

    @operation
    def reference(self, ref: str, *, bins: int | None = None) -> Call[Reference]:
        """How strange the calibration images are: a histogram of the statistic in nats."""
        return Call("GET", path("models", ref, "reference"), model(Reference), params=given(bins=bins))

    @operation
    def set_alias(self, name: str, alias: str, version: int) -> Call[Aliases]:
        """Moves an alias, or makes it; going back to an earlier version is the same call."""
        body = {"json": AliasTarget(version=version).model_dump()}
        return Call("PUT", path("models", name, "aliases", alias), model(Aliases), body=body)

    @operation
    def delete_alias(self, name: str, alias: str) -> Call[None]:
        """Takes an alias away; raises `Conflict` for `live`."""
        return Call("DELETE", path("models", name, "aliases", alias), nothing)

    @operation
    def delete_version(self, name: str, version: int) -> Call[None]:
        """Deletes a version with its calibrations; raises `Conflict` while an alias points at it."""
        return Call("DELETE", path("models", name, "versions", version), nothing)


class Calibrations(Group[S]):
    """Calibrations of models: which images p-values are ranks among."""

    @operation
    def list(self, ref: str) -> Call[CalibrationList]:
        """All calibrations of a version, and which is in use."""
        return Call("GET", path("models", ref, "calibrations"), model(CalibrationList))

    @operation
    def get(self, ref: str, number: int) -> Call[CalibrationView]:
        """One calibration; 0 is the one that the model came with."""
        return Call("GET", path("models", ref, "calibrations", number), model(CalibrationView))

    @operation
    def choose(self, ref: str, number: int) -> Call[CalibrationList]:
        """Makes a calibration the one in use, an earlier one too."""
        body = {"json": CalibrationChoice(calibration=number).model_dump()}
        return Call("PUT", path("models", ref, "calibrations", "active"), model(CalibrationList), body=body)

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
        """Queues a job that calibrates a version on the images of a dataset; `key` as in `jobs.submit`."""
        asked = CalibrationRequest(dataset=dataset, activate=activate, precision=precision)
        return Call(
            "POST",
            path("models", ref, "calibrations"),
            model(JobView),
            headers={"Idempotency-Key": key or uuid.uuid4().hex},
            body={"json": asked.model_dump()},
        )
