"""Choice of the compute engine, such as PyTorch, that all processes of a bulk scoring use.

With one engine, equal plans give equal rows of scores.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from models.errors import EngineUnavailable
from models.scoring.options import EngineName

if TYPE_CHECKING:
    from models.bulk.plan import BulkPlan
    from models.loading.model_files import ModelFiles
    from models.scorer import Scorer


def choose_engine(plan: BulkPlan, model: ModelFiles, stored: BulkPlan | None) -> tuple[BulkPlan, ModelFiles]:
    """Choose the compute engine of a bulk scoring, such as PyTorch, for the returned plan and model.

    The engine is set in the returned plan. It is also set in the options of the returned model, unless the parts of a
    hybrid model use two engines.

    A stored plan of the same inputs keeps its engine. Otherwise it is the one of the options of the model; for the
    choice of an engine for this machine the model is loaded.

    Args:
        plan: The plan, without an engine.
        model: The model.
        stored: The plan that is stored where the scores will be.

    Returns:
        The plan, and the model with the engine of the plan.

    Raises:
        EngineUnavailable: The engine cannot run here.
    """
    plan = plan.with_engine_of(stored)
    options = model.options
    if plan.engine is None and (options.device != "cpu" or options.name != "auto"):
        plan = plan.model_copy(update={"engine": "torch" if options.device != "cpu" else options.name})
    if plan.engine is None:
        from models.scorer import load_files  # noqa: PLC0415  # OpenVINO takes time to import

        plan = with_engine_of_scorer(plan, load_files(model))
    return plan, with_engine(model, plan)


def with_engine(model: ModelFiles, plan: BulkPlan) -> ModelFiles:
    """Return a ``ModelFiles`` for loading a model with the compute engine and precision of a bulk scoring plan.

    A plan with two engines, of a hybrid model, leaves the engine of the options. The digest of the plan's model is set,
    too, if the plan has one: loading then fails if the files are not those of that model.
    """
    # Of a hybrid model each part may have its engine, which no option names: the choice is compared after loading.
    name = cast(EngineName, plan.engine) if plan.engine in ("torch", "openvino") else model.options.name
    precision = plan.precision or model.options.precision
    return replace(model, options=replace(model.options, name=name, precision=precision), digest=plan.model_sha256)


def with_engine_of_scorer(plan: BulkPlan, scorer: Scorer) -> BulkPlan:
    """Return a copy of a bulk scoring plan with its ``engine`` set to the compute engine of a loaded model.

    Raises ``EngineUnavailable`` if the plan already has another engine.
    """
    require_engine(plan, scorer)
    return plan.model_copy(update={"engine": engine_of(scorer)})


def require_engine(plan: BulkPlan, scorer: Scorer) -> None:
    """Check that a loaded model uses the compute engine named in a bulk scoring plan.

    Raises ``EngineUnavailable`` otherwise. A plan without an engine accepts any.
    """
    got = engine_of(scorer)
    if plan.engine not in (None, got):
        raise EngineUnavailable(
            f"these scores are computed by {plan.engine}, which this machine cannot: it computes by {got}. Install the "
            "same packages everywhere, or set SNF_ENGINE=torch everywhere and begin anew"
        )


def engine_of(scorer: Scorer) -> str:
    """Return the name of the compute engine that a loaded model uses, such as ``torch``.

    A hybrid model with two engines gives both names, such as ``openvino+torch``.
    """
    features = getattr(scorer.density, "features", None)
    names = [scorer.engine_name] if features is None else [scorer.engine_name, features.engine_name]
    return "+".join(dict.fromkeys(names))
