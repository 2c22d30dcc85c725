"""Training jobs as the end-to-end tests submit them, and what is in their files."""

from pathlib import Path
from typing import Any

import httpx

from snf_worker.jobs.events import FILE, read_chunks

TRAINING: dict[str, Any] = {
    "type": "train",
    "dataset": "mnist-mini",
    "preset": "snf-glow-tiny",
    "parameters": {"max_steps": 4, "validations": 1, "batch_size": 32, "validation_images": 20},
}
"""A job of a few seconds, without the name of its model."""

SMALL: dict[str, Any] = {
    "name": "small-lu",
    "levels": [{"steps": [{"type": "actnorm"}, {"type": "lu-1x1"}, {"type": "affine-coupling", "width": 4}]}],
    "training": {"precision": "float32", "warmup_steps": 0},
}
"""An architecture whose steps take a quarter of the time of those of the preset, and its evaluation a third."""

FEW_IMAGES: dict[str, Any] = {"batch_size": 8, "validation_images": 20, "checkpoint_seconds": 0.5}
"""Parameters of a training with short steps and many checkpoints."""

ENDLESS = FEW_IMAGES | {"max_steps": 1_000_000}


def submit(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    """Submits a training by the preset, or by an architecture."""
    body = {**TRAINING, **changes}
    if "architecture" in changes:
        del body["preset"]
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    return job


def written(home: Path, job_id: str, kind: str) -> int:
    """How many events of a kind the attempts of a job have written, whether or not anyone was told."""
    chunks = read_chunks(home / "jobs" / job_id / FILE)
    return sum(entry.event["event"] == kind for chunk in chunks for entry in chunk.entries)
