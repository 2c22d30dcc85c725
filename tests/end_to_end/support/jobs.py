"""Training jobs as the end-to-end tests submit them."""

from typing import Any

import httpx

TRAINING: dict[str, Any] = {
    "type": "train",
    "dataset": "mnist-mini",
    "preset": "snf-glow-tiny",
    "parameters": {"max_steps": 4, "validations": 1, "batch_size": 32, "validation_images": 20},
}
"""A job of a few seconds, without the name of its model."""

FEW_IMAGES: dict[str, Any] = {"batch_size": 8, "validation_images": 20, "checkpoint_seconds": 0.5}
"""Parameters of a training with short steps and many checkpoints."""

ENDLESS = FEW_IMAGES | {"max_steps": 1_000_000}


def submit(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json={**TRAINING, **changes})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    return job
