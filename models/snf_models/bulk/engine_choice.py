"""Choice of the compute engine of a bulk scoring: with one engine, equal plans give equal scores."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from snf_models.errors import EngineUnavailable
from snf_models.scoring.options import EngineName

if TYPE_CHECKING:
    from snf_models.bulk.plan import BulkPlan
    from snf_models.loading.model_files import ModelFiles
    from snf_models.scorer import Scorer


def choose_engine(plan: BulkPlan, model: ModelFiles, stored: BulkPlan | None) -> tuple[BulkPlan, ModelFiles]:
    """Choose the engine: that of a stored plan of the same inputs, else that of the options, else the best here."""
    plan = plan.with_engine_of(stored)
    options = model.options
    if plan.engine is None and (options.device != "cpu" or options.name != "auto"):
        plan = plan.model_copy(update={"engine": "torch" if options.device != "cpu" else options.name})
    if plan.engine is None:
        from snf_models.scorer import load_files  # noqa: PLC0415  # OpenVINO takes time to import

        plan = with_engine_of_scorer(plan, load_files(model))
    return plan, with_engine(model, plan)


def with_engine(model: ModelFiles, plan: BulkPlan) -> ModelFiles:
    """Return the model with a plan's engine, unless the plan has two, and with its precision and digest."""
    # Of a hybrid model each part may have its engine, which no option names: the choice is compared after loading.
    name = cast(EngineName, plan.engine) if plan.engine in ("torch", "openvino") else model.options.name
    precision = plan.precision or model.options.precision
    return replace(model, options=replace(model.options, name=name, precision=precision), digest=plan.model_sha256)


def with_engine_of_scorer(plan: BulkPlan, scorer: Scorer) -> BulkPlan:
    """Set the engine of a plan to that of a loaded model; raise ``EngineUnavailable`` if the plan has another."""
    require_engine(plan, scorer)
    return plan.model_copy(update={"engine": engine_of(scorer)})


def require_engine(plan: BulkPlan, scorer: Scorer) -> None:
    """Raise ``EngineUnavailable`` unless the plan has this engine or none."""
    got = engine_of(scorer)
    if plan.engine not in (None, got):
        raise EngineUnavailable(
            f"these scores are computed by {plan.engine}, which this machine cannot: it computes by {got}. Install the "
            "same packages everywhere, or set SNF_ENGINE=torch everywhere and begin anew"
        )


def engine_of(scorer: Scorer) -> str:
    """Return a name such as ``torch``, of a hybrid model with two engines both, such as ``openvino+torch``."""
    features = getattr(scorer.density, "features", None)
    names = [scorer.engine_name] if features is None else [scorer.engine_name, features.engine_name]
    return "+".join(dict.fromkeys(names))
