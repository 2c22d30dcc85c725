"""The identity of a training, which earlier versions have written into its checkpoints."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from snf_models.datasets import Dataset
from snf_models.flows.architecture import GlowArchitecture
from snf_models.pipeline.checkpoint import identity_of
from snf_models.training.config import TrainingConfig

GLOW = (
    '{"channels":1,"height":28,"width":28,"pixel_transform":"marginal","family":"glow","levels":2,"steps":8,'
    '"hidden":128,"linear":"self-normalizing"}'
)
SETTINGS = (
    '{"image_size":null,"automatic_side":64,"fit":null,"colour":null,"levels":null,"max_steps":2000,'
    '"max_minutes":null,"batch_size":64,"learning_rate":0.002,"warmup_steps":100,"final_learning_rate":0.02,'
    '"reconstruction_weight":100.0,"multiplier":"fixed","reconstruction_target":0.001,'
    '"symmetric_reconstruction":false,"noise_reconstruction":0.0,"gradient":"paper","refresh_inverse_every":0,'
    '"suspect_share":0.0,"gradient_clip":5.0,"ema_decay":0.999,"pixel_transform":"marginal","precision":"auto",'
    '"recompute":false,"seed":0,"validation_images":1000,"validations":20,"checkpoint_seconds":60.0,'
    '"backbone":"efficientnet-lite0","feature_side":null,"feature_steps":0,"feature_updates":300}'
)
"""As an earlier version wrote them, without `augmentation`, `whitening`, `optimizer` and `corrected_directions`."""


def identity(config: TrainingConfig) -> str:
    images = np.zeros((1, 1, 28, 28), np.uint8)
    dataset = Dataset("blank", images, images, images, images, "digest")
    return identity_of(dataset, GlowArchitecture.model_validate_json(GLOW), config, None)


def test_checkpoints_of_earlier_versions_still_belong_to_their_trainings() -> None:
    assert identity(TrainingConfig()) == hashlib.sha256(f"{GLOW}{SETTINGS}digest".encode()).hexdigest()


@pytest.mark.parametrize(
    "changed",
    [{"augmentation": "flip"}, {"whitening": True}, {"optimizer": "muon"}, {"corrected_directions": 5}, {"seed": 1}],
    ids=str,
)
def test_another_setting_is_another_training(changed: dict[str, object]) -> None:
    assert identity(TrainingConfig().model_copy(update=changed)) != identity(TrainingConfig())
