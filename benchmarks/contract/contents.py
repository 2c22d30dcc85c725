"""Models, a dataset, drift and ended jobs of the service that is tested."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from benchmarks.installation import PatientClient, until

PATIENCE_S = 600
SEED = 1


def prepare(client: PatientClient) -> None:
    """Give a new service what requests can ask about; ``schemathesis.toml`` has the names."""
    client.timeout = PATIENCE_S
    images = np.random.default_rng(SEED).integers(0, 256, (40, 28, 28), np.uint8)
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, images)
    np.savez(npz, images=images)
    packed = client.get("/v1/models/mnist-snf-glow/artifact").raise_for_status().content
    for _ in range(2):
        send(client, "/v1/models?name=my-digits", packed, "application/x-tar")
    send(client, "/v1/models/my-digits/score?source=line-1", npy.getvalue(), "application/x-npy")
    file = {"file": ("bottles.npz", npz.getvalue())}
    client.post("/v1/datasets", data={"name": "bottles"}, files=file).raise_for_status()
    few = {"max_steps": 20, "batch_size": 8, "validations": 1, "validation_images": 8, "fit": "stretch"}
    requests: tuple[dict[str, Any], ...] = (
        {"type": "train", "dataset": "mnist-mini", "model": "any-size", "preset": "snf-glow-tiny"}
        | {"parameters": few, "promote": True},
        {"type": "score", "dataset": "bottles", "model": "my-digits"},
    )
    jobs = [client.submit(request, request["type"]) for request in requests]
    until("end of the jobs", PATIENCE_S, lambda: all(client.document(f"/v1/jobs/{job}")["finished_at"] for job in jobs))


def send(client: PatientClient, path: str, content: bytes, media_type: str) -> None:
    """Send bytes; raises ``httpx.HTTPStatusError`` where they are refused."""
    client.post(path, content=content, headers={"Content-Type": media_type}).raise_for_status()
