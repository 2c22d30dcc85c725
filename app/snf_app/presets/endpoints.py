from __future__ import annotations

from functools import cache

from snf_app.http.router import Router
from snf_client.schemas.jobs import JobRequest
from snf_client.schemas.training import PresetList, PresetView
from snf_models.pipeline.presets import PRESETS, Preset
from snf_models.training.config import TrainingConfig

router = Router("/v1/presets", "jobs")


@router.get("", "List the presets")
async def list_presets() -> PresetList:
    """List the training presets, which are named model architectures.

    The answer also has the JSON Schema of a training job's `parameters`.
    """
    return _listing()


@cache
def _listing() -> PresetList:
    return PresetList(
        presets=[_view(preset) for preset in PRESETS.values()],
        default=JobRequest.model_fields["preset"].default,
        parameters=TrainingConfig.model_json_schema(),
    )


def _view(preset: Preset) -> PresetView:
    own, usual = preset.config({}), TrainingConfig()
    return PresetView(
        name=preset.name,
        purpose=preset.purpose,
        family=preset.family,
        linear=preset.linear,
        parameters={name: value for name, value in own.model_dump().items() if value != getattr(usual, name)},
        accepts=[name for name in TrainingConfig.model_fields if name in preset.parameters],
    )
